//! How the guests' processors run: KVM where it really works, else translation.

use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use c1m::internal::command_error::{CommandError, Result};

use crate::archive::{self, Role, Tools};
use crate::args::{Acceleration, Size};
use crate::guest::{Guest, Heard, Spec};
use crate::kernel::Kernel;
use crate::walls;

/// How long a guest under KVM may take to boot and power off; it takes about two seconds.
const PATIENCE: Duration = Duration::from_secs(20);

/// Memory of the guest that tries it.
const PROBE: Size = Size { memory_mib: 256, cores: 1 };

/// The processor that is translated. With fast string instructions (erms, fsrm) the kernel copies and clears
/// by `rep movs` and `rep stos`, which translation carries out byte by byte: a ramp takes a sixth longer.
const TRANSLATED: &str = "max,erms=off,fsrm=off";

/// The accelerator to use, and QEMU's arguments for it.
pub fn choose(
    wanted: Acceleration,
    kernel: &Kernel,
    tools: &Tools,
    folder: &Path,
) -> Result<(&'static str, Vec<String>)> {
    let kvm = match wanted {
        Acceleration::Tcg => false,
        Acceleration::Kvm => {
            if !works(kernel, tools, folder)? {
                let saw = "KVM: a small guest did not boot and power off";
                return Err(CommandError::host(saw, "this host cannot run guests with it", "use --accel tcg"));
            }
            true
        }
        Acceleration::Auto => usable() && works(kernel, tools, folder)?,
    };
    Ok(if kvm {
        ("kvm", arguments(&["kvm"], "host"))
    } else {
        ("tcg", arguments(&["tcg", "thread=multi"], TRANSLATED))
    })
}

fn arguments(accelerator: &[&str], processor: &str) -> Vec<String> {
    ["-accel", &accelerator.join(","), "-cpu", processor].map(str::to_owned).to_vec()
}

/// Whether the device can be opened at all.
fn usable() -> bool {
    std::fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").is_ok()
}

/// Boots a small guest that powers off at once: on some hosts /dev/kvm opens and the guest hangs.
fn works(kernel: &Kernel, tools: &Tools, folder: &Path) -> Result<bool> {
    let spec = Spec {
        name: "kvm-probe".to_owned(),
        size: PROBE,
        kernel: kernel.image.clone(),
        command_line: "console=ttyS0 panic=-1".to_owned(),
        processor: arguments(&["kvm"], "host"),
        links: Vec::new(),
        folder: folder.to_owned(),
    };
    archive::write(&spec.file("cpio"), &Role::probe(), tools)?;
    let console = spec.file("console.log");
    let (sender, heard) = mpsc::channel();
    let _guest = Guest::boot(spec, 0, sender)?;
    let until = Instant::now() + PATIENCE;
    loop {
        match heard.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(Heard::Ended(_)) => return Ok(walls::read(&console).contains("Power down")),
            Ok(_) => {}
            Err(_) => return Ok(false),
        }
    }
}
