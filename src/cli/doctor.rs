//! `c1m doctor`: prints the page, and exits with 1 if the goal does not fit.

use super::Ended;
use super::args::DoctorArguments;
use super::out::{Target, say};
use crate::command_error::Result;
use crate::doctor;
use crate::host::Host;
use crate::render;

/// Judges this host.
pub fn run(arguments: &DoctorArguments) -> Result<Ended> {
    let host = Host::here();
    let goal = arguments.goal.goal(&host)?;
    let target = arguments.json.as_deref().map(Target::open).transpose()?;
    let page = doctor::examine(&host, &goal);
    if !target.as_ref().is_some_and(Target::is_stdout) {
        say(render::doctor::text(&page).trim_end());
    }
    if let Some(target) = target {
        target.write_json(&page)?;
    }
    Ok(if page.fits() { Ended::Well } else { Ended::Short })
}
