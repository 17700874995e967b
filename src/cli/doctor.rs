//! `c1m doctor`: prints the page, and exits with 1 if the goal does not fit.

use super::Ended;
use super::args::DoctorArguments;
use super::out::{Target, print_beside};
use crate::command_error::Result;
use crate::doctor;
use crate::host::Host;
use crate::output;
use crate::render;

/// Judges this host.
pub fn run(arguments: &DoctorArguments) -> Result<Ended> {
    let host = Host::here();
    let goal = arguments.goal.goal(&host)?;
    output::differ(&[("--json", arguments.json.as_deref())])?;
    let target = arguments.json.as_deref().map(Target::open).transpose()?;
    let page = doctor::examine(&host, &goal);
    let shown = print_beside(&target, || Ok(render::doctor::text(&page)));
    let written = target.map_or(Ok(()), |target| target.write_json(&page));
    shown.and(written)?;
    Ok(if page.fits() { Ended::Well } else { Ended::Short })
}
