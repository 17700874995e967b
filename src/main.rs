//! `c1m`: runs the command line and returns its exit code. Everything else is in the library.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: c1m::internal::sys::Allocator = c1m::internal::sys::Allocator;

fn main() -> ExitCode {
    match c1m::internal::cli::run() {
        Ok(ended) => ended.exit_code().into(),
        Err(error) => {
            c1m::internal::cli::complain(&format!("c1m: {error}\n"));
            error.exit_code().into()
        }
    }
}
