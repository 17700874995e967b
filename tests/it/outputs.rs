//! The files of results: each is complete or absent, and in a place of its own, however the run ends.

use std::fs::OpenOptions;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::support::*;

/// The names in a folder.
fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// A folder with the result and the interval log of a run of 50 connections: r.json, r.hlog.
fn results() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(2, "");
    let path = dir.path().display();
    let files = format!("--json {path}/r.json --hlog {path}/r.hlog");
    let finished = run(&format!("client --target-ip 127.0.0.1 {} --connections 50 --hold 0s {files}", server.at()));
    assert_eq!((finished.code(), finished.err.as_str()), (0, ""), "{}", finished.out);
    server.stop();
    assert_eq!(names(dir.path()), ["r.hlog", "r.json"]);
    dir
}

/// A command that runs the program under test in a folder.
fn within(dir: &TempDir) -> Command {
    let mut command = c1m();
    command.current_dir(dir.path());
    command
}

// ---- the same run twice ------------------------------------------------------------------------------

#[test]
fn a_run_counts_once_whatever_path_it_is_given_by() {
    let dir = results();
    let at = |name: &str| dir.path().join(name);
    std::fs::copy(at("r.json"), at("copy.json")).unwrap();
    std::fs::copy(at("r.hlog"), at("copy.hlog")).unwrap();
    std::fs::hard_link(at("r.json"), at("hard.json")).unwrap();
    symlink("r.json", at("link.json")).unwrap();
    // The same document, formatted differently.
    std::fs::write(at("line.json"), document(at("r.json")).to_string()).unwrap();
    for twice in [
        "r.json r.json",
        "r.json ./r.json",
        "r.json copy.json",
        "r.json hard.json",
        "r.json link.json",
        "r.json line.json",
        "r.hlog copy.hlog",
        "r.hlog ./r.hlog",
    ] {
        run_as(within(&dir), &format!("report merge {twice}")).fails_with(2, &["given twice"]);
    }
    for descriptors in ["exec 3<r.json 4<copy.json", "exec 3<r.json 4<hard.json", "exec 3<r.hlog 4<copy.hlog"] {
        let mut command = c1m_after(descriptors);
        command.current_dir(dir.path());
        run_as(command, "report merge /dev/fd/3 /dev/fd/4").fails_with(2, &["/dev/fd/3", "/dev/fd/4", "given twice"]);
    }
    run_as(within(&dir), "report compare r.json copy.json").fails_with(2, &["the same run"]);
}

#[test]
fn a_merged_result_counts_with_all_its_parts() {
    let (one, other) = (results(), results());
    let dir = tempfile::tempdir().unwrap();
    for (name, from) in [("a.json", &one), ("b.json", &other)] {
        std::fs::copy(from.path().join("r.json"), dir.path().join(name)).unwrap();
    }
    assert_eq!(run_as(within(&dir), "report merge a.json b.json --json m.json").code(), 0);
    run_as(within(&dir), "report merge m.json b.json").fails_with(2, &["m.json", "b.json", "given twice"]);
    run_as(within(&dir), "report merge m.json m.json").fails_with(2, &["m.json", "given twice"]);
    // If a machine could be taken out of a merged result, its own result could count again beside the rest.
    let mut cut = document(dir.path().join("m.json"));
    cut["machines"].as_array_mut().unwrap().pop();
    std::fs::write(dir.path().join("cut.json"), cut.to_string()).unwrap();
    run_as(within(&dir), "report merge cut.json b.json")
        .fails_with(2, &["cut.json", "requested is 100, and its machines have 50"]);
    // Results of an earlier version have no identity, and are identified by their content.
    for (name, from) in [("old-a.json", "a.json"), ("old-b.json", "b.json")] {
        let mut result = document(dir.path().join(from));
        assert_eq!(result["about"]["run_id"].as_str().unwrap().len(), 32);
        result["about"].as_object_mut().unwrap().remove("run_id");
        std::fs::write(dir.path().join(name), result.to_string()).unwrap();
    }
    std::fs::copy(dir.path().join("old-a.json"), dir.path().join("old-copy.json")).unwrap();
    assert_eq!(run_as(within(&dir), "report merge old-a.json old-b.json --json old.json").code(), 0);
    assert_eq!(number(&document(dir.path().join("old.json")), "live"), 100);
    run_as(within(&dir), "report merge old-a.json old-copy.json").fails_with(2, &["given twice"]);
    run_as(within(&dir), "report merge old.json old-b.json").fails_with(2, &["given twice"]);
    // A merged result may replace one of its parts.
    assert_eq!(run_as(within(&dir), "report merge a.json b.json --json a.json").code(), 0);
    assert_eq!(number(&document(dir.path().join("a.json")), "live"), 100);
}

// ---- whole files or none -----------------------------------------------------------------------------

#[test]
fn a_run_that_never_begins_leaves_the_earlier_result() {
    let dir = results();
    let before = std::fs::read(dir.path().join("r.json")).unwrap();
    let port = free_ports(1);
    let _taken = std::net::TcpListener::bind(("0.0.0.0", port)).unwrap();
    for (arguments, code) in [
        (format!("client --target-ip 127.0.0.1 {} --connections 0", at(port, 1)), 2),
        (format!("client --target-ip 127.0.0.1 {} --connections 10 --payload 0 --interval 1s", at(port, 1)), 2),
        (format!("demo {} --connections 10", at(port, 1)), 3),
        (server_arguments(port, 1, ""), 3),
    ] {
        let finished = run_as(within(&dir), &format!("{arguments} --json r.json"));
        assert_eq!(finished.code(), code, "{arguments}: {}{}", finished.out, finished.err);
        assert_eq!(std::fs::read(dir.path().join("r.json")).unwrap(), before, "{arguments}");
        assert_eq!(names(dir.path()), ["r.hlog", "r.json"], "{arguments}");
    }
}

#[test]
fn a_file_that_grows_too_large_is_reported_and_the_earlier_one_stays() {
    let dir = results();
    let before = std::fs::read(dir.path().join("r.json")).unwrap();
    std::fs::copy(dir.path().join("r.json"), dir.path().join("page.html")).unwrap();
    // The limit is in units of 512 bytes, and lower than any of these documents.
    let mut command = c1m_after("ulimit -f 1");
    command.current_dir(dir.path()).args(["report", "html", "r.json", "-o", "page.html"]);
    let finished = Running::start(command).wait();
    finished.fails_with(3, &["page.html", "EFBIG", "ulimit -f"]);
    assert_eq!(std::fs::read(dir.path().join("page.html")).unwrap(), before);
    assert_eq!(names(dir.path()), ["page.html", "r.hlog", "r.json"]);
}

#[test]
fn an_earlier_file_keeps_its_mode_and_the_links_to_it() {
    let dir = results();
    let at = |name: &str| dir.path().join(name);
    std::fs::write(at("page.html"), "earlier").unwrap();
    std::fs::set_permissions(at("page.html"), std::fs::Permissions::from_mode(0o604)).unwrap();
    symlink("page.html", at("link.html")).unwrap();
    assert_eq!(run_as(within(&dir), "report html r.json -o link.html").code(), 0);
    assert!(std::fs::symlink_metadata(at("link.html")).unwrap().is_symlink());
    assert!(std::fs::read_to_string(at("page.html")).unwrap().starts_with("<!DOCTYPE html>"));
    assert_eq!(std::fs::metadata(at("page.html")).unwrap().mode() & 0o7777, 0o604);
    assert_eq!(run_as(within(&dir), "report html r.json -o /dev/null").code(), 0);
    run_as(within(&dir), "report html r.json -o /dev/full").fails_with(3, &["/dev/full", "ENOSPC"]);
    // What a command prints is all that it makes.
    for arguments in ["report merge r.json", "report merge r.hlog", "doctor --connections 10", "tune --connections 10"]
    {
        let mut command = c1m_after("exec >/dev/full");
        command.current_dir(dir.path());
        run_as(command, arguments).fails_with(3, &["standard output", "ENOSPC"]);
    }
}

/// The disk is a file system in memory of 256 KiB.
#[test(Mounts)]
fn a_full_disk_is_reported_and_the_earlier_files_stay() {
    let dir = results();
    let server = Server::start(1, "");
    in_own_mounts(|| {
        let disk = dir.path().join("disk");
        std::fs::create_dir(&disk).unwrap();
        mount("none", disk.to_str().unwrap(), "tmpfs", 0, "size=256k");
        for name in ["page", "json", "hlog"] {
            std::fs::write(disk.join(name), "earlier").unwrap();
        }
        let _ = std::fs::write(disk.join("filler"), vec![0; 1 << 20]);
        run_as(within(&dir), "report html r.json -o disk/page").fails_with(3, &["disk/page", "ENOSPC"]);
        run_as(within(&dir), "report html r.json -o disk/new").fails_with(3, &["disk/new", "ENOSPC"]);
        let client = format!("client --target-ip 127.0.0.1 {} --connections 5 --hold 0s", server.at());
        for (flag, name) in [("--json", "json"), ("--report", "page"), ("--hlog", "hlog"), ("--histogram", "new")] {
            let finished = run_as(within(&dir), &format!("{client} {flag} disk/{name}"));
            finished.fails_with(3, &[&format!("disk/{name}"), "ENOSPC"]);
            assert!(finished.out.contains("5 requested = 5 live"), "the result is printed: {}", finished.out);
        }
        assert_eq!(names(&disk), ["filler", "hlog", "json", "page"]);
        for name in ["page", "json", "hlog"] {
            assert_eq!(std::fs::read_to_string(disk.join(name)).unwrap(), "earlier", "{name}");
        }
    });
}

/// A file that is a mount point, as in a container, cannot be replaced.
#[test(Mounts)]
fn a_file_that_is_a_mount_point_is_rewritten() {
    let dir = results();
    in_own_mounts(|| {
        let [source, place] = ["source", "place"].map(|name| dir.path().join(name));
        std::fs::write(&source, "earlier").unwrap();
        std::fs::write(&place, "").unwrap();
        mount(source.to_str().unwrap(), place.to_str().unwrap(), "", libc::MS_BIND, "");
        assert_eq!(run_as(within(&dir), "report html r.json -o place").code(), 0);
        assert!(std::fs::read_to_string(&source).unwrap().ends_with("</html>"));
        assert_eq!(names(dir.path()), ["place", "r.hlog", "r.json", "source"]);
    });
}

/// The user may write the file, and nothing else in its folder.
#[test]
fn a_file_in_a_folder_that_takes_no_new_file_is_rewritten_or_stays() {
    let dir = results();
    let page = dir.path().join("page");
    let earlier = "earlier".repeat(1_000);
    std::fs::write(&page, &earlier).unwrap();
    std::fs::set_permissions(&page, std::fs::Permissions::from_mode(0o666)).unwrap();
    let inode = std::fs::metadata(&page).unwrap().ino();
    let program = tempfile::tempdir().unwrap();
    let user = |limit: &str| {
        let user = c1m_unprivileged(&program);
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o555)).unwrap();
        let mut command = unprivileged(Path::new("/bin/sh"), &program, NOBODY);
        command.args(["-c", &format!("{limit} && exec \"$0\" \"$@\"")]).arg(user.get_program());
        command.current_dir(dir.path());
        command
    };
    let cut = run_as(user("ulimit -f 8"), "report html r.json -o page");
    cut.fails_with(3, &["page", "EFBIG"]);
    assert_eq!(std::fs::read_to_string(&page).unwrap(), earlier);
    run_as(user(":"), "report html r.json -o new").fails_with(2, &["new", "EACCES"]);
    assert_eq!(run_as(user(":"), "report html r.json -o page").code(), 0);
    assert!(std::fs::read_to_string(&page).unwrap().ends_with("</html>"));
    assert_eq!(std::fs::metadata(&page).unwrap().ino(), inode);
    assert_eq!(names(dir.path()), ["page", "r.hlog", "r.json"]);
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn a_pipe_whose_reader_goes_away_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(1, "");
    for flag in ["--json", "--report", "--hlog", "--histogram"] {
        let pipe = dir.path().join(flag);
        assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let reader = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&pipe).unwrap();
        let mut command = within(&dir);
        command.args(format!("client --target-ip 127.0.0.1 {} --connections 5", server.at()).split_whitespace());
        // The client sends messages all the while, so that an interval log has lines to write to the end.
        command.args(["--hold", "1h", "--interval", "10ms", flag]).arg(&pipe);
        let mut client = Running::start(command);
        client.until("it holds", |out| out.contains("\nhold "));
        drop(reader);
        // A process that another test starts has a copy of the reader until its program runs.
        let gone = || OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(&pipe).is_err();
        eventually("nobody reads the pipe", gone);
        client.signal(libc::SIGTERM);
        client.wait().fails_with(3, &[flag, "EPIPE"]);
    }
}

// ---- a place for each output -------------------------------------------------------------------------

#[test]
fn two_outputs_in_one_place_are_refused() {
    let dir = results();
    symlink("new", dir.path().join("link")).unwrap();
    std::fs::hard_link(dir.path().join("r.json"), dir.path().join("hard")).unwrap();
    let before = std::fs::read(dir.path().join("r.json")).unwrap();
    let port = at(free_ports(1), 1);
    let client = format!("client --target-ip 127.0.0.1 {port} --connections 5");
    let storm = format!("storm disconnect --target-ip 127.0.0.1 {port} --connections 5");
    for (arguments, flags) in [
        (format!("{client} --json x --report x"), ["--json", "--report"]),
        (format!("{client} --json x --report ./x"), ["--json", "--report"]),
        (format!("{client} --json new --histogram link"), ["--json", "--histogram"]),
        (format!("{client} --json r.json --hlog hard"), ["--json", "--hlog"]),
        (format!("{client} --json - --histogram -"), ["--json", "--histogram"]),
        (format!("{storm} --report - --hlog -"), ["--report", "--hlog"]),
        (format!("{storm} --json - --hlog /dev/stdout"), ["--json", "--hlog"]),
        (format!("demo {port} --connections 5 --json x --hlog x"), ["--json", "--hlog"]),
        ("report merge r.json --json x --html x".to_owned(), ["--json", "--html"]),
        ("report html r.json -o ./r.json".to_owned(), ["--output", "r.json"]),
        ("report html r.json -o hard".to_owned(), ["--output", "r.json"]),
        ("report merge r.json --html hard".to_owned(), ["--html", "r.json"]),
        ("report merge r.hlog --json r.hlog".to_owned(), ["--json", "r.hlog"]),
        ("report compare r.json r.hlog --json r.json".to_owned(), ["--json", "r.json"]),
    ] {
        let finished = run_as(within(&dir), &arguments);
        finished.fails_with(2, &flags);
        assert_eq!(finished.out, "", "{arguments}");
        assert_eq!(names(dir.path()), ["hard", "link", "r.hlog", "r.json"], "{arguments}");
    }
    assert_eq!(std::fs::read(dir.path().join("r.json")).unwrap(), before);
    assert_eq!(run_as(within(&dir), "report merge r.json --json /dev/null --html /dev/null").code(), 0);
}

#[test]
fn printed_lines_and_an_output_need_different_places() {
    let dir = results();
    let into = |file: &str| {
        let mut command = c1m_after(&format!("exec >>{file}"));
        command.current_dir(dir.path());
        command
    };
    let client = format!("client --target-ip 127.0.0.1 {} --connections 5", at(free_ports(1), 1));
    run_as(into("x"), &format!("{client} --json ./x")).fails_with(2, &["standard output", "--json ./x"]);
    run_as(into("x"), "report merge r.json --html x").fails_with(2, &["standard output", "--html x"]);
    assert_eq!(std::fs::read_to_string(dir.path().join("x")).unwrap(), "");
    // Other names of standard output count as standard output, and nothing else is printed there.
    for (file, output) in [("dash", "-"), ("stdout", "/dev/stdout"), ("number", "/proc/self/fd/1")] {
        assert_eq!(run_as(into(file), &format!("report merge r.json --json {output}")).code(), 0);
        assert_eq!(number(&document(dir.path().join(file)), "live"), 50);
    }
}

#[test]
fn a_result_for_a_closed_standard_output_is_refused_before_the_run() {
    for arguments in ["doctor --json -", "client --target-ip 127.0.0.1 --json /dev/stdout"] {
        run_as(c1m_after("exec >&-"), arguments).fails_with(2, &["standard output is closed"]);
    }
    assert_eq!(run_as(c1m_after("exec >/dev/null"), "doctor --json -").code(), 0);
}

/// A result never takes the place of a certificate, of a key, or of a socket.
#[test]
fn an_output_does_not_replace_what_the_run_reads() {
    let dir = results();
    for name in ["cert", "key", "ca"] {
        std::fs::write(dir.path().join(name), name).unwrap();
    }
    std::fs::hard_link(dir.path().join("key"), dir.path().join("hard")).unwrap();
    let port = at(free_ports(1), 1);
    let client = format!("client --target-ip 127.0.0.1 {port} --tls --ca ca --cert cert --key key");
    let storm = format!("storm disconnect --target-ip 127.0.0.1 {port} --tls --ca ca");
    let server = format!("server {port} --max-connections 10");
    for (arguments, flags) in [
        (format!("{client} --json key"), ["--json key", "key"]),
        (format!("{client} --report ./hard"), ["--report ./hard", "key"]),
        (format!("{client} --histogram cert"), ["--histogram cert", "cert"]),
        (format!("{storm} --hlog ca"), ["--hlog ca", "ca"]),
        (format!("{server} --tls-cert cert --tls-key key --json hard"), ["--json hard", "key"]),
        (format!("{server} --takeover x --json ./x"), ["--json ./x", "--takeover x"]),
    ] {
        run_as(within(&dir), &arguments).fails_with(2, &flags);
    }
    for (file, arguments) in [("x", format!("{server} --json x")), ("y", "doctor --json y".to_owned())] {
        let mut command = c1m_after(&format!("exec >>{file}"));
        command.current_dir(dir.path());
        run_as(command, &arguments).fails_with(2, &["standard output", "one place"]);
    }
    let mut command = c1m_after("exec 2>>x");
    command.current_dir(dir.path());
    assert_eq!(run_as(command, &format!("{server} --json x")).code(), 2);
    let refused = std::fs::read_to_string(dir.path().join("x")).unwrap();
    assert!(refused.contains("standard error and --json x are one place"), "{refused}");
    for name in ["cert", "key", "ca", "hard"] {
        let held = std::fs::read_to_string(dir.path().join(name)).unwrap();
        assert_eq!(held, if name == "hard" { "key" } else { name });
    }
}

/// A document on standard output is complete, and no line for people is printed beside it.
#[test]
fn a_printed_document_is_the_whole_output() {
    let server = Server::start(2, "");
    let to_server = format!("--target-ip 127.0.0.1 {} --connections 50", server.at());
    let client = format!("client {to_server} --hold 0s");
    let storm = format!("storm disconnect {to_server} --calm 100ms --after 100ms");
    let demo = format!("demo {} --connections 50 --hold 0s", at(free_ports(2), 2));
    for command in [&client, &storm, &demo] {
        let finished = run(&format!("{command} --report -"));
        let page = finished.out.trim();
        assert!(page.starts_with("<!DOCTYPE html>") && page.ends_with("</html>"), "{command}: {page}");
        assert_eq!((finished.code(), page.matches("<!DOCTYPE").count()), (0, 1), "{command}");
        let dir = tempfile::tempdir().unwrap();
        let finished = run(&format!("{command} --hlog /dev/stdout"));
        assert!(finished.out.starts_with("#[Histogram log format version"), "{command}: {}", finished.out);
        std::fs::write(dir.path().join("r.hlog"), &finished.out).unwrap();
        assert_eq!(run_as(within(&dir), "report merge r.hlog").code(), 0, "{command}: {}", finished.out);
    }
    let finished = run(&format!("{client} --histogram -"));
    assert!(finished.out.trim_start().starts_with("Value "), "{}", finished.out);
    assert!(!finished.out.contains("requested"), "{}", finished.out);
    server.stop();
}

/// The folder of an output is removed during the run, or another folder gets the name of the output.
#[test]
fn an_output_whose_folder_is_gone_is_explained() {
    let server = Server::start(2, "");
    for (file, change) in [("gone/r.json", "rm -r gone"), ("gone/r.json", "mv gone away"), ("r.json", "mkdir r.json")] {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("gone")).unwrap();
        let mut command = within(&dir);
        let arguments =
            format!("client --target-ip 127.0.0.1 {} --connections 20 --hold 1h --json {file}", server.at());
        command.args(arguments.split_whitespace());
        let mut client = Running::start(command);
        client.until("it holds", |out| out.contains("\nhold "));
        let changed = Command::new("sh").args(["-c", change]).current_dir(dir.path()).status().unwrap();
        assert!(changed.success(), "{change}");
        client.signal(libc::SIGTERM);
        let finished = client.wait();
        finished.fails_with(3, &[file, "since the run began", "nothing was written", "choose a folder"]);
        // The result is still printed for people.
        assert!(finished.out.contains("20 requested = 20 live"), "{}", finished.out);
    }
    server.stop();
}

// ---- signals -----------------------------------------------------------------------------------------

/// When a terminal goes away, the kernel and the shell may each send SIGHUP.
#[test]
fn hangups_end_every_command_in_order() {
    let server = Server::start(2, "--json -");
    let dir = tempfile::tempdir().unwrap();
    let to_server = format!("--target-ip 127.0.0.1 {} --connections 50", server.at());
    for (arguments, phase) in [
        (format!("client {to_server} --hold 1h"), "hold"),
        (format!("storm slow-readers {to_server} --calm 1h"), "calm"),
        (format!("demo {} --connections 50 --hold 1h", at(free_ports(2), 2)), "hold"),
    ] {
        let mut command = within(&dir);
        command.args(arguments.split_whitespace()).args(["--json", "r.json", "--hlog", "r.hlog"]);
        let mut running = Running::start(command);
        running.until(phase, |out| out.lines().any(|line| line.starts_with(phase)));
        running.signal(libc::SIGHUP);
        running.signal(libc::SIGHUP);
        let finished = running.wait();
        assert_eq!((finished.code(), finished.err.as_str()), (1, ""), "{arguments}: {}", finished.out);
        let result = document(dir.path().join("r.json"));
        assert_eq!(result.get("client").unwrap_or(&result)["stopped"], true, "{arguments}");
        assert_eq!(names(dir.path()), ["r.hlog", "r.json"], "{arguments}");
        for name in names(dir.path()) {
            std::fs::remove_file(dir.path().join(name)).unwrap();
        }
    }
    server.running.signal(libc::SIGHUP);
    let finished = server.running.wait();
    assert_eq!(finished.code(), 0, "{}{}", finished.out, finished.err);
    assert_eq!(number(&finished.last_document(), "accepted"), 100);
}

/// Ctrl-\\ on a terminal sends SIGQUIT. From the limit on processor time on, the kernel sends SIGXCPU every second.
#[test]
fn a_quit_and_the_limit_on_processor_time_end_a_run_in_order() {
    let server = Server::start(2, "");
    let dir = tempfile::tempdir().unwrap();
    for (signal, times) in [(libc::SIGQUIT, 1), (libc::SIGXCPU, 2)] {
        let mut command = within(&dir);
        let arguments = format!("client --target-ip 127.0.0.1 {} --connections 50 --hold 1h", server.at());
        command.args(arguments.split_whitespace()).args(["--json", "r.json", "--hlog", "r.hlog"]);
        let mut running = Running::start(command);
        running.until("it holds", |out| out.lines().any(|line| line.starts_with("hold")));
        (0..times).for_each(|_| running.signal(signal));
        let finished = running.wait();
        assert_eq!((finished.code(), finished.err.as_str()), (1, ""), "{signal}: {}", finished.out);
        assert_eq!(document(dir.path().join("r.json"))["stopped"], true);
        assert_eq!(names(dir.path()), ["r.hlog", "r.json"], "{signal}");
        let own = Server::start(1, "--json -");
        own.running.signal(signal);
        let finished = own.running.wait();
        assert_eq!((finished.code(), number(&finished.last_document(), "live")), (0, 0), "{}", finished.err);
    }
    server.stop();
}

#[test]
fn an_ignored_hangup_stays_ignored() {
    let server = Server::start_as(c1m_after("trap '' HUP"), 1, "");
    server.running.signal(libc::SIGHUP);
    // The server still serves after the signal was delivered, and another signal ends it.
    client(&format!("{} --connections 5", server.at())).held(5);
    server.stop();
}

/// A file in memory may be without a name until it is complete. The kernel removes it however the process ends.
#[test(Mounts)]
fn no_end_leaves_an_unfinished_file() {
    let server = Server::start(1, "");
    let dir = tempfile::tempdir().unwrap();
    // With this rate of closing the client does not end between two signals.
    let arguments =
        format!("client --target-ip 127.0.0.1 {} --connections 10 --hold 1h --close-rate 0.01", server.at());
    in_own_mounts(|| {
        mount("none", dir.path().to_str().unwrap(), "tmpfs", 0, "");
        std::fs::write(dir.path().join("r.json"), "earlier").unwrap();
        for (signal, code) in [(libc::SIGTERM, 128 + libc::SIGTERM), (libc::SIGKILL, -1)] {
            let mut command = within(&dir);
            command.args(arguments.split_whitespace()).args(["--json", "r.json", "--hlog", "r.hlog"]);
            let mut client = Running::start(command);
            client.until("it holds", |out| out.contains("\nhold "));
            let pid = client.pid();
            eventually("the log is begun", || writes_in(pid, dir.path()));
            assert_eq!(names(dir.path()), ["r.json"], "nothing unfinished has a name");
            client.insist(signal);
            let finished = client.wait();
            assert_eq!(finished.code(), code, "{}{}", finished.out, finished.err);
            assert_eq!(names(dir.path()), ["r.json"], "{signal}");
            assert_eq!(std::fs::read_to_string(dir.path().join("r.json")).unwrap(), "earlier");
        }
    });
    server.stop();
}

/// Whether a process has a file open in a folder.
fn writes_in(pid: u32, folder: &Path) -> bool {
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    open.filter_map(|fd| std::fs::read_link(fd.path()).ok()).any(|file| file.parent() == Some(folder))
}

/// Where no file can be without a name, one that is begun has a temporary one. There an end in order removes it, and so
/// does a second signal.
#[test]
fn two_signals_leave_no_unfinished_file() {
    // With this rate of closing the client does not end between the two signals.
    let server = Server::start(1, "");
    let dir = tempfile::tempdir().unwrap();
    let mut command = within(&dir);
    let arguments =
        format!("client --target-ip 127.0.0.1 {} --connections 10 --hold 1h --close-rate 0.01", server.at());
    command.args(arguments.split_whitespace()).args(["--hlog", "r.hlog"]);
    // The bit that O_TMPFILE has beside O_DIRECTORY.
    let nameless = (libc::O_TMPFILE & !libc::O_DIRECTORY) as u32;
    refuse(&mut command, libc::SYS_openat..=libc::SYS_openat, Some(nameless), libc::EOPNOTSUPP);
    let mut client = Running::start(command);
    client.until("it holds", |out| out.contains("\nhold "));
    eventually("the log is begun", || names(dir.path()).iter().any(|name| name.ends_with(".part")));
    client.signal(libc::SIGTERM);
    eventually("the client closes", || client.out().lines().any(|line| line.starts_with("close ")));
    client.insist(libc::SIGTERM);
    let finished = client.wait();
    assert_eq!(finished.code(), 128 + libc::SIGTERM, "{}{}", finished.out, finished.err);
    assert!(names(dir.path()).is_empty(), "{:?}", names(dir.path()));
    server.stop();
}

/// What is printed of a quiet run is its beginning, its audits and its result.
#[test]
fn quiet_events_tell_no_progress() {
    let server = Server::start(2, "--service push --port-sharing all --stats-interval 10ms --quiet --json -");
    let plain = Server::start(2, "--stats-interval 10ms --quiet --json -");
    let stages = "--connections 20 --calm 100ms --after 100ms --interval 100ms";
    for arguments in [
        format!("client --target-ip 127.0.0.1 {} --connections 20 --hold 1s", plain.at()),
        format!("storm disconnect --target-ip 127.0.0.1 {} {stages}", plain.at()),
        // This one follows what its victims' process tells of its progress.
        format!("storm killed --target-ip 127.0.0.1 {} {stages} --for 100ms", plain.at()),
        format!("fanout --target-ip 127.0.0.1 {} --subscribers 20 --for 1s", server.at()),
    ] {
        let finished = run(&format!("{arguments} --quiet --json -"));
        assert_eq!(finished.code(), 0, "{arguments}: {}{}", finished.out, finished.err);
        let told = |kind| events(&finished.out, kind).len();
        assert_eq!((told("progress"), told("planned"), told("audit")), (0, 1, 2), "{}", finished.out);
        assert_eq!(number(&finished.last_document(), "failed"), 0);
    }
    for server in [server, plain] {
        let out = server.stop().out;
        assert_eq!((events(&out, "stats").len(), events(&out, "ready").len()), (0, 1), "{out}");
    }
}
