//! The shared libraries of a program, which a guest needs beside it.

use std::path::{Path, PathBuf};
use std::process::Command;

use c1m::internal::command_error::{CommandError, Result};

/// The loader of a program and the libraries that it loads, as ldd(1) of this host finds them. In a guest they have
/// the same paths, so that the loader finds them there too. None for a static program and for a script.
///
/// # Errors
/// A library is missing here, or ldd cannot run.
pub fn of(program: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(program).output().map_err(|error| {
        CommandError::host(
            format!("run ldd {}: {error}", program.display()),
            "the guests' programs may need libraries, and they are not known",
            "install ldd; a distribution has it beside its C library",
        )
    })?;
    parse(&String::from_utf8_lossy(&output.stdout)).map_err(|missing| {
        CommandError::host(
            format!("{} needs {missing}, which is not found", program.display()),
            "a guest could not run it",
            "install that library, or link the program statically",
        )
    })
}

/// The files in lines such as `libc.so.6 => /lib/libc.so.6 (0x7f21c191e000)` and `/lib64/ld-linux.so.2 (0x7f21c23a6000)`.
/// The kernel brings `linux-vdso.so.1`, which has no path. An error is the name of a library that was not found.
fn parse(said: &str) -> std::result::Result<Vec<PathBuf>, String> {
    let mut files = Vec::new();
    for line in said.lines() {
        let line = line.trim();
        if let Some(name) = line.strip_suffix("=> not found") {
            return Err(name.trim().to_owned());
        }
        let Some((named, _)) = line.rsplit_once(" (0x") else { continue };
        let path = named.rsplit(" => ").next().unwrap_or(named).trim();
        if path.starts_with('/') {
            files.push(PathBuf::from(path));
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ldd_says_is_read() {
        let said = "\tlinux-vdso.so.1 (0x00007f21c23a4000)\n\
            \tlibm.so.6 => /lib/x86_64-linux-gnu/libm.so.6 (0x00007f21c1b00000)\n\
            \t/lib64/ld-linux-x86-64.so.2 (0x00007f21c23a6000)\n";
        let files = ["/lib/x86_64-linux-gnu/libm.so.6", "/lib64/ld-linux-x86-64.so.2"].map(PathBuf::from);
        assert_eq!(parse(said).unwrap(), files);
        assert!(parse("\tstatically linked\n").unwrap().is_empty());
        assert_eq!(parse("\tlibx.so.1 => not found\n").unwrap_err(), "libx.so.1");
    }

    #[test]
    fn a_program_of_this_host_has_a_loader_and_a_script_has_none() {
        let files = of(&std::env::current_exe().unwrap()).unwrap();
        assert!(files.iter().any(|file| file.to_string_lossy().contains("/ld-")), "{files:?}");
        assert!(files.iter().all(|file| file.is_file()), "{files:?}");

        let folder = tempfile::tempdir().unwrap();
        let script = folder.path().join("script");
        std::fs::write(&script, "#!/bin/sh\n").unwrap();
        assert!(of(&script).unwrap().is_empty());
    }
}
