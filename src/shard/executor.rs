//! The executor of a shard's thread: glommio, which is named here and nowhere else. The shard's data never passes
//! through it. It runs the thread, which pins itself, and has the timers and the wait for the doorbell in a long sleep.

use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use glommio::io::BufferedFile;
use glommio::timer::Timer;
use glommio::{ExecutorJoinHandle, GlommioError, LocalExecutorBuilder, Placement};

use crate::constants::GLOMMIO_IO_MEMORY;
use crate::error::{Errno, Error, HostError, Result, ThreadReason};
use crate::host::{not_started, pin_thread};
use crate::ring;
use crate::sys::Doorbell;

/// Entries of each of glommio's own rings; they carry timers and one eventfd.
const RING_DEPTH: usize = 32;

/// How long glommio runs tasks before it polls its own rings: as long as there is any task to run. A working shard
/// needs nothing from those rings. A short time would do harm: it may expire before the first task runs, on a host that
/// suspends the thread for longer than glommio's 100 ms. glommio 0.9 then goes to sleep although tasks are ready
/// (`run_task_queues` in executor/mod.rs reports that nothing ran). One of these tasks reads the doorbell, so the shard
/// would never wake up again.
const PREEMPTION: Duration = Duration::from_secs(24 * 3600);

/// A shard's thread.
pub struct ShardThread<T: Send + 'static> {
    handle: ExecutorJoinHandle<Result<T>>,
    core: usize,
}

impl<T: Send + 'static> ShardThread<T> {
    /// Waits for the shard's end.
    pub fn join(self) -> Result<T> {
        self.handle.join().map_err(|error| refused(self.core, error))?
    }
}

/// Runs a future on a thread of its own, pinned to `core`. Fails where the thread or glommio's rings cannot be had.
///
/// The thread pins itself. glommio's own way to pin one (`Placement::Fixed`) reads where the core lies in the machine from
/// /sys, and panics on a host that shows none, such as a chroot.
pub(super) fn start<T, F>(name: &str, core: usize, run: impl FnOnce() -> F + Send + 'static) -> Result<ShardThread<T>>
where
    T: Send + 'static,
    F: Future<Output = Result<T>> + 'static,
{
    let run = move || async move {
        pin_thread(core)?;
        run().await
    };
    let handle = LocalExecutorBuilder::new(Placement::Unbound)
        .name(name)
        .io_memory(GLOMMIO_IO_MEMORY)
        .ring_depth(RING_DEPTH)
        .preempt_timer(PREEMPTION)
        .spawn(run)
        .map_err(|error| refused(core, error))?;
    Ok(ShardThread { handle, core })
}

/// A doorbell as tasks of this thread read it.
pub(super) struct DoorbellFile(Rc<BufferedFile>);

impl DoorbellFile {
    /// The file of a doorbell.
    pub fn of(doorbell: &Doorbell) -> Result<DoorbellFile> {
        Ok(DoorbellFile(Rc::new(doorbell.listen()?)))
    }

    /// Starts a task that waits until the doorbell is rung, and clears it. Then the task calls `rang(true)`, or
    /// `rang(false)` if the doorbell cannot be read.
    pub fn read(&self, rang: impl FnOnce(bool) + 'static) {
        let file = self.0.clone();
        glommio::spawn_local(async move {
            let is_read = file.read_at(0, 8).await.is_ok();
            drop(file);
            rang(is_read);
        })
        .detach();
    }

    /// Closes the file. No task may be reading it.
    pub async fn close(self) {
        if let Some(file) = Rc::into_inner(self.0) {
            let _ = file.close().await;
        }
    }
}

/// Waits for this time, while other tasks of the thread run.
pub(super) async fn pause(time: Duration) {
    Timer::new(time).await;
}

/// Why an executor did not start, or ended.
fn refused(core: usize, error: GlommioError<()>) -> Error {
    let core = format!("core {core}");
    match error {
        GlommioError::IoError(error) | GlommioError::EnhancedIoError { source: error, .. } => match Errno::of(&error) {
            Errno::EAGAIN => not_started(format!("an executor on {core}"), &error),
            _ => ring::refused("executor on", core, &error),
        },
        error => HostError::new("executor on", core, None, ThreadReason::Executor(error.to_string())).into(),
    }
}
