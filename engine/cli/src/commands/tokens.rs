//! `headstart tokens` and `headstart webhook`: who may see and use the page, and who may call it.

use headstart_console::color::{Ink, paint};
use headstart_console::{errln, outln};
use headstart_env::{Clock, SystemClock, SystemRandom};
use headstart_notify::{Notifier, Secret};
use headstart_page::{Role, TokenError, Tokens};
use headstart_scheduler::Folder;
use headstart_store::Workspace;
use serde_json::json;

use crate::Volume;
use crate::args::{Format, TokenRole, TokensCommand};
use crate::exit::CommandError;
use crate::recorded;
use crate::workspace::Location;

/// Runs `headstart tokens`.
///
/// # Errors
/// If there is no such token, or one already, or the workspace cannot be read or written.
pub fn run(place: &Location<'_>, command: &TokensCommand, volume: Volume) -> Result<(), CommandError> {
    // The first command of a new server may make a token, if it says where.
    let ws = if place.is_named() { place.create()? } else { place.existing()? };
    let tokens = Tokens::of(&ws);
    match command {
        TokensCommand::Create { name, role } => {
            let role = if *role == TokenRole::Operator { Role::Operator } else { Role::ReadOnly };
            let text =
                tokens.create(name, role, SystemClock::new().now_ms(), &SystemRandom).map_err(wrong)?;
            outln!("{text}")?;
            if !volume.quiet {
                errln!("made the {} token {name}; it cannot be printed again", role.word());
            }
        }
        TokensCommand::List { format } => list(&tokens, *format)?,
        TokensCommand::Revoke { name } => {
            tokens.revoke(name).map_err(wrong)?;
            if !volume.quiet {
                errln!("revoked {name}");
            }
        }
    }
    Ok(())
}

fn wrong(e: TokenError) -> CommandError {
    let help = e.help();
    let error = CommandError::input(e);
    match help {
        Some(help) => error.help(help),
        None => error,
    }
}

fn list(tokens: &Tokens, format: Format) -> Result<(), CommandError> {
    let all = tokens.list().map_err(wrong)?;
    if format == Format::Json {
        let row =
            |t: &headstart_page::Token| json!({ "name": t.name, "role": t.role, "created_ms": t.created_ms });
        return Ok(outln!("{}", serde_json::Value::Array(all.iter().map(row).collect()))?);
    }
    if all.is_empty() {
        errln!("no tokens; `headstart tokens create NAME` makes one");
        return Ok(());
    }
    let width = all.iter().map(|t| t.name.len()).max().unwrap_or(0).max("NAME".len());
    outln!("{}", paint(Ink::Quiet, &format!("{:<width$}  {:<9}  CREATED", "NAME", "ROLE")))?;
    Ok(all.iter().try_for_each(|t| {
        outln!("{:<width$}  {:<9}  {}", t.name, t.role.word(), recorded::time(t.created_ms))
    })?)
}

/// Runs `headstart webhook`.
///
/// # Errors
/// If no schedule has a webhook of this name, or the workspace cannot be read or written.
pub fn webhook(ws: &Workspace, name: Option<&str>) -> Result<(), CommandError> {
    let Some(name) = name else { return Ok(outln!("{}", Notifier::secret(ws)?.text())?) };
    let states = Folder::new(ws.dir().join("schedules"), ws.disk().clone()).list();
    let policies = states.into_iter().flatten().filter_map(|s| s.policy);
    let known: Vec<String> = policies.flat_map(|p| p.webhooks).collect();
    if known.iter().any(|k| k == name) {
        return Ok(outln!("{}", Secret::of(ws, &format!("webhook-{name}"))?.text())?);
    }
    let error = CommandError::input(format!("no schedule of this workspace has a webhook `{name}`"));
    Err(error.help(match known.is_empty() {
        true => format!("write `webhook: \"{name}\"` into a schedule and serve its file"),
        false => headstart_console::suggest::help(name, "schedules have", known.iter().map(String::as_str)),
    }))
}
