//! One QEMU machine: how it is started, spoken to, listened to, and ended.

use std::io::{BufRead, BufReader, Write};
use std::net::UdpSocket;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc;

use c1m::error::{Error, Result};

use crate::args::Size;

/// What reaches the leader.
#[derive(Debug)]
pub enum Heard {
    /// A guest wrote a line of its control port.
    Line(usize, String),
    /// A guest's QEMU closed its output: it ends.
    Ended(usize),
    /// A signal came to us.
    Signal,
}

/// The two ends of one point-to-point link: UDP ports of the loopback interface.
#[derive(Debug, Clone, Copy)]
pub struct Link {
    /// The port of this end.
    pub local: u16,
    /// The port of the other end.
    pub remote: u16,
}

impl Link {
    /// A link over two free ports, as its two ends see it. A port may be lost to another process
    /// before QEMU binds it; QEMU then says so and ends.
    pub fn pair() -> Result<(Link, Link)> {
        let no_port = |e: std::io::Error| Error::host(format!("bind a UDP port of 127.0.0.1: {e}"), "the guests need links", "free some ports");
        let sockets = [UdpSocket::bind("127.0.0.1:0").map_err(no_port)?, UdpSocket::bind("127.0.0.1:0").map_err(no_port)?];
        let [a, b] = sockets.map(|socket| socket.local_addr().map(|address| address.port()).map_err(no_port));
        let (a, b) = (a?, b?);
        Ok((Link { local: a, remote: b }, Link { local: b, remote: a }))
    }
}

/// What a machine shall be.
#[derive(Debug, Clone)]
pub struct Spec {
    /// What a person calls it.
    pub name: String,
    /// Memory and cores.
    pub size: Size,
    /// The kernel image.
    pub kernel: PathBuf,
    /// The boot command line.
    pub command_line: String,
    /// The initramfs.
    pub initramfs: PathBuf,
    /// The accelerator and processor, as QEMU's arguments.
    pub processor: Vec<String>,
    /// Its network cards.
    pub links: Vec<Link>,
    /// Where its console is kept.
    pub console: PathBuf,
    /// Where its memory figures are kept.
    pub vitals: PathBuf,
    /// Where what QEMU itself says is kept.
    pub said: PathBuf,
}

impl Spec {
    /// The command that runs it. QEMU dies with us, however we end: `setpriv` has the kernel see to that.
    fn command(&self) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-no-reboot"]);
        command.args(["-display", "none", "-name", &self.name]).args(&self.processor);
        command.args(["-smp", &self.size.cores.to_string(), "-m", &self.size.memory_mib.to_string()]);
        command.arg("-kernel").arg(&self.kernel).arg("-initrd").arg(&self.initramfs);
        command.args(["-append", &self.command_line]);
        command.args(["-chardev", &format!("file,id=console,path={}", self.console.display())]);
        command.args(["-chardev", "stdio,id=control,signal=off"]);
        command.args(["-chardev", &format!("file,id=vitals,path={}", self.vitals.display())]);
        for (index, port) in ["console", "control", "vitals"].iter().enumerate() {
            // The third port of a PC shares the first one's interrupt; it gets one of its own.
            let irq = if index == 2 { ",irq=5" } else { "" };
            command.args(["-device", &format!("isa-serial,index={index},chardev={port}{irq}")]);
        }
        for (index, link) in self.links.iter().enumerate() {
            let Link { local, remote } = link;
            let here = format!("local.type=inet,local.host=127.0.0.1,local.port={local}");
            let there = format!("remote.type=inet,remote.host=127.0.0.1,remote.port={remote}");
            command.args(["-netdev", &format!("dgram,id=link{index},{here},{there}")]);
            // With either of the two, cards on `dgram` or `stream` links stop under load (virtio TX time-out).
            let sound = "event_idx=off,ioeventfd=off";
            let mac = format!("mac=52:54:00:00:{:02x}:{:02x}", local >> 8, local & 0xff);
            command.args(["-device", &format!("virtio-net-pci,netdev=link{index},{mac},{sound}")]);
        }
        // A group of its own: Ctrl-C is for us, who then end it.
        command.process_group(0);
        command
    }
}

/// A running machine. Dropping it ends it.
pub struct Guest {
    /// What a person calls it.
    pub name: String,
    /// Its logs.
    pub spec: Spec,
    child: Child,
    control: Option<ChildStdin>,
}

impl Guest {
    /// Starts the machine; what its control port says comes as `Heard` with its `number`.
    pub fn boot(spec: Spec, number: usize, heard: mpsc::Sender<Heard>) -> Result<Guest> {
        let failed = |e: std::io::Error| {
            Error::host(format!("start {}: {e}", spec.name), "QEMU could not run", "run tuning/lab/setup")
        };
        let said = std::fs::File::create(&spec.said).map_err(failed)?;
        let mut command = spec.command();
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(said).spawn().map_err(failed)?;
        let control = child.stdin.take();
        if let Some(output) = child.stdout.take() {
            std::thread::spawn(move || {
                for line in BufReader::new(output).split(b'\n').map_while(std::io::Result::ok) {
                    let line = String::from_utf8_lossy(&line).trim_end().to_owned();
                    // A leader that has gone wants no more lines.
                    let _ = heard.send(Heard::Line(number, line));
                }
                let _ = heard.send(Heard::Ended(number));
            });
        }
        Ok(Guest { name: spec.name.clone(), spec, child, control })
    }

    /// Writes a word to its control port. A guest that has gone is found by its end.
    pub fn tell(&mut self, word: &str) {
        if let Some(control) = &mut self.control {
            let _ = writeln!(control, "{word}").and_then(|()| control.flush());
        }
    }

    /// Ends it at once, as if its plug were pulled.
    pub fn kill(&mut self) {
        // It may have ended by itself; then there is nothing to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// How its QEMU ended, after its output has.
    pub fn end(&mut self) -> String {
        self.child.wait().map_or_else(|e| e.to_string(), |status| status.to_string())
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.kill();
    }
}
