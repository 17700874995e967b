//! `c1m tune`: shows, applies, persists and reverts settings.

use std::fmt::Write;

use super::Ended;
use super::args::{Profile, TuneArguments};
use super::out::{Target, say, warn};
use crate::command_error::Result;
use crate::format::count;
use crate::host::Host;
use crate::plan::Goal;
use crate::tune;
use crate::walls::{self, Limits, Setting, boot};

/// The settings of articles like the original one, each commented out.
const FOR_ARTICLE: &str = include_str!("../../tuning/article.conf");

/// Prints, applies or reverts settings, as the arguments say.
pub fn run(arguments: &TuneArguments) -> Result<Ended> {
    let host = Host::here();
    if arguments.for_article {
        return Target::Stdout.write(FOR_ARTICLE.as_bytes()).map(|()| Ended::Well);
    }
    if arguments.revert {
        return revert(&host);
    }
    let goal = arguments.goal.goal(&host)?;
    let settings = walls::settings(&host, &goal);
    let limits = walls::limits(&goal);
    let mut text = shown(&host, &settings, limits.filter(|_| arguments.persist), &goal);
    if arguments.profile == Profile::Extreme {
        text += &shown_boot(&goal);
    }
    if arguments.apply || arguments.persist {
        // They are set, whether anybody reads it or not.
        say(text.trim_end());
        let changed = tune::apply(&host, &settings, arguments.persist.then(|| limits.unwrap_or_default()))?;
        say(match (changed, arguments.persist) {
            (false, _) => "nothing was changed",
            (true, true) => "applied, and written to /etc for the next boot; `c1m tune --revert` undoes both",
            (true, false) => "applied until the next boot; `c1m tune --revert` undoes it",
        });
        if arguments.persist {
            tune::overridden(&host)?.iter().for_each(warn);
        }
        return Ok(Ended::Well);
    }
    if !settings.is_empty() {
        text += "nothing was changed: --apply sets these now, --persist also for the next boot\n";
    }
    Target::Stdout.write(text.as_bytes()).map(|()| Ended::Well)
}

/// The settings, each as a diff with its reason. Writing to a String cannot fail, so the results of `writeln!` are dropped.
fn shown(host: &Host, settings: &[Setting], limits: Option<Limits>, goal: &Goal) -> String {
    let mut out = String::new();
    if settings.is_empty() {
        let unread = match walls::unread(host, goal).as_slice() {
            [] => String::new(),
            walls => format!("; not readable here, and so not looked at: {}", walls.join(", ")),
        };
        let _ = writeln!(
            out,
            "no setting of this host stands in the way of {} connections{unread}",
            count(goal.connections)
        );
    }
    for setting in settings {
        let spaced = |text: &str| if text.is_empty() { "(empty)".to_owned() } else { text.replace('\t', " ") };
        let _ = writeln!(out, "{}\n  - {}\n  + {}", setting.name, spaced(&setting.now), spaced(&setting.then));
        let _ = writeln!(out, "    {}", setting.reason);
    }
    let lines = limits.map(|limits| limits.lines()).unwrap_or_default();
    for line in lines.lines() {
        let _ = writeln!(out, "/{}\n  + {line}", tune::LIMITS_FILE);
    }
    out
}

/// The kernel command line of `--profile extreme`.
fn shown_boot(goal: &Goal) -> String {
    let parameters = boot::parameters(goal);
    let mut out =
        "\nkernel command line, for a machine that does nothing else (tuning/cmdline.md); c1m does not set it:\n"
            .to_owned();
    for parameter in &parameters {
        let saves = parameter.bytes.map_or("           ".to_owned(), |bytes| format!("{bytes:>4} bytes "));
        let _ = writeln!(out, "  {:<28}{saves} {}", parameter.text, parameter.reason);
    }
    let line: Vec<&str> = parameters.iter().map(|parameter| parameter.text.as_str()).collect();
    let _ = writeln!(out, "  GRUB_CMDLINE_LINUX=\"{}\"\n", line.join(" "));
    out
}

fn revert(host: &Host) -> Result<Ended> {
    let Some(reverted) = tune::revert(host)? else {
        say("nothing to revert: c1m tune has changed nothing here, or it is reverted already");
        return Ok(Ended::Well);
    };
    for (name, value) in &reverted.settings {
        say(format!("{name} = {}", value.replace('\t', " ")));
    }
    for name in &reverted.gone {
        say(format!("{name}: this host has it no more"));
    }
    for path in &reverted.files {
        say(format!("{} is as it was", path.display()));
    }
    if reverted == tune::Reverted::default() {
        say("everything was as before already");
    }
    Ok(Ended::Well)
}
