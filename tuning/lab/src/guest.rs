//! One QEMU machine: how it is started, spoken to, listened to, and ended.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use c1m::internal::command_error::{CommandError, Result};

use crate::args::Size;

/// How long QEMU may take to make its sockets.
const LINKED: Duration = Duration::from_secs(20);

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

/// One end of a point-to-point link: a stream of frames over a Unix socket, which loses none and
/// makes a sender wait for a slow receiver. (Datagrams over UDP are dropped when the receiver's
/// socket buffer is full, which a burst of SYNs from three machines does at once.)
#[derive(Debug, Clone)]
pub struct Link {
    /// The name of both ends' socket in the run's folder.
    pub socket: String,
    /// Whether this end makes the socket; the other must start after it.
    pub listens: bool,
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
    /// The accelerator and processor, as QEMU's arguments.
    pub processor: Vec<String>,
    /// Its network cards.
    pub links: Vec<Link>,
    /// The run's folder, where everything of it is.
    pub folder: PathBuf,
}

impl Spec {
    /// One of its files: `cpio`, its initramfs; `console.log`; `control.log`, its events; `vitals.log`,
    /// its memory figures; `qemu.log`, what QEMU itself says.
    pub fn file(&self, what: &str) -> PathBuf {
        self.folder.join(self.file_name(what))
    }

    fn file_name(&self, what: &str) -> String {
        format!("{}.{what}", self.name)
    }
    /// The command that runs it. QEMU dies with us, however we end: `setpriv` has the kernel see to that.
    fn command(&self) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-no-reboot"]);
        command.args(["-display", "none", "-name", &self.name]).args(&self.processor);
        command.args(["-smp", &self.size.cores.to_string(), "-m", &self.size.memory_mib.to_string()]);
        // Paths within the folder: a socket's may have 107 bytes, and QEMU would split one at a comma.
        command.current_dir(&self.folder);
        command.arg("-kernel").arg(&self.kernel).args(["-initrd", &self.file_name("cpio")]);
        command.args(["-append", &self.command_line]);
        command.args(["-chardev", &format!("file,id=console,path={}", self.file_name("console.log"))]);
        command.args(["-chardev", "stdio,id=control,signal=off"]);
        command.args(["-chardev", &format!("file,id=vitals,path={}", self.file_name("vitals.log"))]);
        for (index, port) in ["console", "control", "vitals"].iter().enumerate() {
            // The third port of a PC shares the first one's interrupt; it gets one of its own.
            let irq = if index == 2 { ",irq=5" } else { "" };
            command.args(["-device", &format!("isa-serial,index={index},chardev={port}{irq}")]);
        }
        for (index, link) in self.links.iter().enumerate() {
            let side = if link.listens { "on" } else { "off" };
            let address = format!("addr.type=unix,addr.path={}", link.socket);
            command.args(["-netdev", &format!("stream,id=link{index},server={side},{address}")]);
            // With either of the two, cards on such links stop under load (virtio TX time-out).
            let sound = "event_idx=off,ioeventfd=off";
            command.args(["-device", &format!("virtio-net-pci,netdev=link{index},mac={},{sound}", mac(link))]);
        }
        // A group of its own: Ctrl-C is for us, who then end it.
        command.process_group(0);
        command
    }
}

/// An address that its two ends do not share, in the range that is free for local use.
fn mac(link: &Link) -> String {
    format!("52:54:00:00:00:0{}", u8::from(link.listens))
}

/// A running machine. Dropping it ends it.
pub struct Guest {
    /// What it is.
    pub spec: Spec,
    child: Child,
    control: Option<ChildStdin>,
}

impl Guest {
    /// Starts the machine; what its control port says comes as `Heard` with its `number`.
    pub fn boot(spec: Spec, number: usize, heard: mpsc::Sender<Heard>) -> Result<Guest> {
        let failed = |e: std::io::Error| {
            CommandError::host(format!("start {}: {e}", spec.name), "QEMU could not run", "run tuning/lab/setup")
        };
        let said = File::create(spec.file("qemu.log")).map_err(failed)?;
        let mut command = spec.command();
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(said).spawn().map_err(failed)?;
        let control = child.stdin.take();
        let mut log = File::create(spec.file("control.log")).map_err(failed)?;
        if let Some(output) = child.stdout.take() {
            std::thread::spawn(move || {
                for line in BufReader::new(output).split(b'\n').map_while(std::io::Result::ok) {
                    let line = String::from_utf8_lossy(&line).trim_end().to_owned();
                    // A log that cannot be written is no reason to end the run.
                    let _ = writeln!(log, "{line}");
                    // A leader that has gone wants no more lines.
                    let _ = heard.send(Heard::Line(number, line));
                }
                let _ = heard.send(Heard::Ended(number));
            });
        }
        let mut guest = Guest { spec, child, control };
        guest.until_linked()?;
        Ok(guest)
    }

    /// Waits until the sockets that it makes are there for others.
    fn until_linked(&mut self) -> Result<()> {
        let until = Instant::now() + LINKED;
        let absent = |link: &&Link| link.listens && !self.spec.folder.join(&link.socket).exists();
        while let Some(missing) = self.spec.links.iter().find(absent) {
            let ended = self.child.try_wait().is_ok_and(|status| status.is_some());
            if ended || Instant::now() > until {
                let said = crate::walls::tail(&self.spec.file("qemu.log"), 3).join(" ");
                let saw = format!("{} made no {}: {said}", self.spec.name, missing.socket);
                return Err(CommandError::host(
                    saw,
                    "QEMU could not start",
                    "see its message; it must be version 7.2 or newer",
                ));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
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
