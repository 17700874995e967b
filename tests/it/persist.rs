//! Files that `tune --persist` writes decide the settings after the next boot. They are read last, and files that
//! are read still later are named.

use std::fs;
use std::path::Path;

use crate::support::*;
use crate::tune::*;

/// Runs `body` on a host whose other files of settings belong to the test.
fn on_a_host_with(sysctl_conf: &str, body: impl FnOnce() + Send) {
    let conf = tempfile::NamedTempFile::new().unwrap();
    fs::write(conf.path(), sysctl_conf).unwrap();
    on_a_low_host(|| {
        mount(conf.path().to_str().unwrap(), "/etc/sysctl.conf", "", libc::MS_BIND, "");
        for folder in ["/usr/lib/sysctl.d", "/run", "/usr/local/lib"] {
            fs::create_dir_all(folder).unwrap();
            mount("tmpfs", folder, "tmpfs", 0, "");
        }
        body();
    });
}

/// Runs `tune --persist`, and returns the warnings.
fn persist() -> Vec<String> {
    let finished = run(&format!("{GOAL} --persist"));
    assert_eq!(finished.code(), 0, "{}", finished.err);
    finished.err.lines().map(str::to_owned).collect()
}

/// Has procps' sysctl read all files of settings, as at a boot.
fn load_at_boot() {
    let status = std::process::Command::new("sysctl").args(["-q", "--system"]).status().unwrap();
    assert!(status.success());
}

const LOWER: &str =
    "net.core.somaxconn = 17\nnet/ipv4/tcp_max_syn_backlog=9\nnet.ipv4.ip_local_port_range = 1024 65535\n";

/// procps and systemd read the same folders. procps, which can be run here, reads /etc/sysctl.conf last.
#[test(Network, Mounts, SysctlLoader)]
fn persisted_settings_are_read_after_the_files_of_debian() {
    on_a_host_with("", || {
        // On Debian this file is a link to /etc/sysctl.conf; a plain file sorts the same.
        fs::write("/etc/sysctl.d/99-sysctl.conf", LOWER).unwrap();
        fs::write("/usr/lib/sysctl.d/99-zz.conf", LOWER).unwrap();
        assert_eq!(persist(), Vec::<String>::new());
        let raised = get("net.core.somaxconn");
        assert!(raised.parse::<u64>().unwrap() > 17);
        load_at_boot();
        assert_eq!(get("net.core.somaxconn"), raised);
    });
}

#[test(Network, Mounts, SysctlLoader)]
fn a_file_that_is_read_later_and_sets_less_is_named() {
    on_a_host_with(LOWER, || {
        std::os::unix::fs::symlink("../sysctl.conf", "/etc/sysctl.d/99-sysctl.conf").unwrap();
        let warnings = persist();
        let named = |name: &str| {
            warnings.iter().any(|line| line.starts_with("c1m: /etc/sysctl.conf sets ") && line.contains(name))
        };
        assert!(named("net.core.somaxconn = 17") && named("net.ipv4.tcp_max_syn_backlog = 9"), "{warnings:?}");
        // A more generous value in the other file needs no warning.
        assert_eq!(warnings.len(), 2, "{warnings:?}");
        load_at_boot();
        assert_eq!(get("net.core.somaxconn"), "17", "the warning is right");
    });
    for folder in ["/etc/sysctl.d", "/run/sysctl.d", "/usr/local/lib/sysctl.d", "/usr/lib/sysctl.d"] {
        on_a_host_with("", || {
            fs::create_dir_all(folder).unwrap();
            fs::write(format!("{folder}/zzz.conf"), LOWER).unwrap();
            let warnings = persist();
            assert_eq!(warnings.len(), 2, "{warnings:?}");
            assert!(warnings[0].contains(&format!("{folder}/zzz.conf sets ")), "{warnings:?}");
            // A file of the same name in /etc overrides this one.
            fs::write("/etc/sysctl.d/zzz.conf", "# nothing\n").unwrap();
            revert();
            assert_eq!(persist(), Vec::<String>::new());
        });
    }
}

/// A pipe or a device among the files, which never ends, is skipped. A file with a comment that is not UTF-8 is read.
#[test(Network, Mounts)]
fn pipes_and_devices_among_the_files_are_skipped() {
    on_a_host_with("", || {
        let folder = Path::new("/etc/sysctl.d");
        let made = std::process::Command::new("mkfifo").arg(folder.join("zzzf.conf")).status().unwrap();
        assert!(made.success());
        fs::create_dir(folder.join("zzzd.conf")).unwrap();
        std::os::unix::fs::symlink("/dev/zero", folder.join("zzzv.conf")).unwrap();
        std::os::unix::fs::symlink("nowhere", folder.join("zzzw.conf")).unwrap();
        std::os::unix::fs::symlink("/dev/zero", "/etc/security/limits.d/zzzv.conf").unwrap();
        fs::write(folder.join("zzzc.conf"), b"# f\xfcr alle\nnet.core.somaxconn = 17\n").unwrap();
        let warnings = persist();
        let [warning] = &warnings[..] else { panic!("{warnings:?}") };
        let said = "zzzc.conf sets net.core.somaxconn = 17 after /etc/sysctl.d/zz-c1m.conf";
        assert!(warning.contains(said), "{warning}");
        revert();
    });
}

/// The file is read last at the next boot: a setting that was raised since it was applied must not fall back then.
#[test(Network, Mounts)]
fn what_was_raised_since_is_persisted_as_it_is() {
    on_a_host_with("", || {
        tune("--apply");
        set("net.core.somaxconn", "60000");
        set("net.ipv4.ip_local_reserved_ports", "80,40100-40103");
        persist();
        let file = fs::read_to_string(SYSCTL_FILE).unwrap();
        assert!(file.contains("\nnet.core.somaxconn = 60000\n"), "{file}");
        assert!(file.contains("\nnet.ipv4.ip_local_reserved_ports = 80,40100-40103\n"), "{file}");
        revert();
        assert_eq!(get("net.core.somaxconn"), "16");
    });
}

#[test(Network, Mounts)]
fn a_file_that_allows_fewer_descriptors_at_login_is_named() {
    on_a_host_with("", || {
        fs::write(
            "/etc/security/limits.d/50-service.conf",
            "* - nofile 3\nwww-data hard nofile 5000 # few\n@web - memlock 64\nftp - nofile unlimited\n",
        )
        .unwrap();
        fs::write("/etc/security/limits.d/zzz.conf", "* hard nofile 4000\n* hard nofile 99999999\n").unwrap();
        let mut command = c1m();
        with_few_descriptors(&mut command);
        let finished = run_as(command, &format!("{GOAL} --persist"));
        assert_eq!(finished.code(), 0, "{}", finished.err);
        let named = |words: &str| finished.err.lines().filter(|line| line.contains(words)).count();
        assert_eq!(named("50-service.conf sets www-data hard nofile 5000"), 1, "{}", finished.err);
        assert_eq!(named("zzz.conf sets * hard nofile 4000"), 1, "{}", finished.err);
        assert_eq!(named("nofile 3,") + named("unlimited") + named("99999999"), 0, "{}", finished.err);
    });
}

/// An earlier c1m wrote 99-c1m.conf. The new file replaces it, and the content from before c1m is still known.
#[test(Network, Mounts)]
fn the_file_of_an_earlier_version_gives_way() {
    const EARLIER: &str = "/etc/sysctl.d/99-c1m.conf";
    for before in [None, Some("# mine\nnet.core.somaxconn = 16\n")] {
        on_a_host_with("", || {
            persist();
            // Renaming the file makes it look like that version's.
            fs::rename(SYSCTL_FILE, EARLIER).unwrap();
            let state: serde_json::Value = serde_json::from_str(&fs::read_to_string(STATE).unwrap()).unwrap();
            let mut state = state;
            for file in state["files"]
                .as_array_mut()
                .unwrap()
                .iter_mut()
                .filter(|file| file["path"] == "etc/sysctl.d/zz-c1m.conf")
            {
                file["path"] = "etc/sysctl.d/99-c1m.conf".into();
                file["was"] =
                    before.map_or(serde_json::Value::Null, |text| serde_json::json!({ "text": text, "mode": 0o644 }));
            }
            fs::write(STATE, state.to_string()).unwrap();
            persist();
            assert_eq!(fs::read_to_string(EARLIER).ok().as_deref(), before);
            assert!(fs::read_to_string(SYSCTL_FILE).unwrap().contains("net.core.somaxconn"));
            revert();
            assert_eq!(fs::read_to_string(EARLIER).ok().as_deref(), before);
            assert!(!Path::new(SYSCTL_FILE).exists());
        });
    }
    // If the state is lost, a file that c1m wrote is removed, and a file of an administrator stays.
    on_a_host_with("", || {
        persist();
        fs::rename(SYSCTL_FILE, EARLIER).unwrap();
        fs::remove_file(STATE).unwrap();
        assert!(revert().out.contains("99-c1m.conf"));
        assert!(!Path::new(EARLIER).exists());
        fs::write(EARLIER, "# mine\n").unwrap();
        assert!(revert().out.contains("nothing to revert"));
        assert!(Path::new(EARLIER).exists());
    });
}
