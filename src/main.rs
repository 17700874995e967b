//! `c1m`: dispatch and exit code; everything else is in the library.

use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    match c1m::internal::cli::run() {
        Ok(ended) => ended.exit_code().into(),
        Err(error) => {
            // There is nowhere left to complain to if standard error is gone too.
            let _ = writeln!(std::io::stderr(), "c1m: {error}");
            error.exit_code().into()
        }
    }
}
