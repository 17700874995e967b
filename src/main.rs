//! `c1m`: runs the command line and returns its exit code. Everything else is in the library.

use std::io::Write;
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: c1m::internal::sys::Allocator = c1m::internal::sys::Allocator;

fn main() -> ExitCode {
    match c1m::internal::cli::run() {
        Ok(ended) => ended.exit_code().into(),
        Err(error) => {
            // If standard error is gone too, there is no place left for the error.
            let _ = writeln!(c1m::internal::cli::Blocking(std::io::stderr()), "c1m: {error}");
            error.exit_code().into()
        }
    }
}
