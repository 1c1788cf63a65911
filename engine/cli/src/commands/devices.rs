//! `headstart devices`: who is invited, who waits, who may join.

use std::io::IsTerminal;
use std::path::Path;

use headstart_console::color::{Ink, paint};
use headstart_console::{errln, outln};
use headstart_disk::{Mode, SystemDisk};
use headstart_driver::devices::{DeviceRecord, DeviceState, engine_identity};
use headstart_driver::{Devices, DevicesError};
use headstart_env::Env;
use headstart_store::Workspace;
use qrcode::render::{svg, unicode};
use qrcode::{EcLevel, QrCode};

use crate::Volume;
use crate::args::{DevicesCommand, Format, Invite};
use crate::exit::CommandError;
use crate::workspace::Location;

/// Runs the command.
///
/// # Errors
/// If there is no such device, or the workspace cannot be read or written.
pub fn run(place: &Location<'_>, command: &DevicesCommand, volume: Volume) -> Result<(), CommandError> {
    if let DevicesCommand::Invite(args) = command {
        // The first command of a new server may be an invitation, if it says where.
        let ws = if place.is_named() { place.create()? } else { place.existing()? };
        return invite(&ws, args, volume);
    }
    let ws = place.existing()?;
    let devices = open(&ws)?;
    let done = |what: String| {
        if !volume.quiet {
            errln!("{what}");
        }
    };
    match command {
        DevicesCommand::Invite(_) => {}
        DevicesCommand::List { format } => list(&devices, *format)?,
        DevicesCommand::Key => {
            let key = engine_identity(&ws).map_err(CommandError::input)?.public();
            outln!("{key}")?;
            done(format!("fingerprint: {}", key.fingerprint()));
        }
        DevicesCommand::Approve { device, name } => {
            let approved = devices.approve(device, name.as_deref()).map_err(wrong)?;
            let key = approved.fingerprint.unwrap_or_default();
            done(format!("approved {} with the key {key}", approved.name));
        }
        DevicesCommand::Revoke { name } => {
            devices.revoke(name).map_err(wrong)?;
            done(format!("revoked {name}; it can no longer join, and gives nothing to runs"));
        }
        DevicesCommand::Rename { name, to } => {
            devices.rename(name, to).map_err(wrong)?;
            done(format!("renamed {name} to {to}; a pipeline names it `device(\"{to}\")` from now on"));
        }
        DevicesCommand::Label { name, label } => devices.label(name, label).map_err(wrong)?,
    }
    Ok(())
}

fn open(ws: &Workspace) -> Result<Devices, CommandError> {
    Devices::open(ws, Env::system()).map_err(CommandError::input)
}

fn wrong(e: DevicesError) -> CommandError {
    let help = e.help();
    let error = CommandError::input(e);
    match help {
        Some(help) => error.help(help),
        None => error,
    }
}

fn invite(ws: &Workspace, args: &Invite, volume: Volume) -> Result<(), CommandError> {
    let engine = engine_identity(ws).map_err(CommandError::input)?.public();
    let invitation = open(ws)?.invite(engine, &args.name, &args.url, args.expires).map_err(wrong)?;
    let text = invitation.to_string();
    // Capitals: a QR code holds them in little more than half the room.
    let code = QrCode::with_error_correction_level(text.to_uppercase(), EcLevel::L);
    let code = code.map_err(CommandError::internal)?;
    if let Some(file) = &args.qr {
        write_svg(&code, file)?;
    }
    if !volume.quiet {
        let until =
            jiff::Timestamp::from_millisecond(i64::try_from(invitation.expires_ms).unwrap_or(i64::MAX));
        let until =
            until.map_or_else(|_| "later".to_owned(), |t| t.strftime("%Y-%m-%d %H:%M UTC").to_string());
        if std::io::stderr().is_terminal() {
            // Light on dark, as most terminals are.
            let (dark, light) = (unicode::Dense1x2::Light, unicode::Dense1x2::Dark);
            errln!("{}", code.render::<unicode::Dense1x2>().dark_color(dark).light_color(light).build());
        }
        errln!("one device may use this once, until {until}:");
        errln!("  headstart-device join INVITATION --data FOLDER");
    }
    Ok(outln!("{text}")?)
}

fn write_svg(code: &QrCode, file: &Path) -> Result<(), CommandError> {
    let picture = code.render::<svg::Color>().min_dimensions(320, 320).build();
    // It lets a device in: nobody else is to read it.
    headstart_disk::files::write_atomic(&SystemDisk, file, picture.as_bytes(), Mode::Secret)
        .map_err(CommandError::input)
}

fn list(devices: &Devices, format: Format) -> Result<(), CommandError> {
    let all = devices.list().map_err(CommandError::input)?;
    if format == Format::Json {
        let json = serde_json::to_string(&all).map_err(CommandError::internal)?;
        return Ok(outln!("{json}")?);
    }
    if all.is_empty() {
        errln!("no devices; `headstart devices invite NAME` invites one");
        return Ok(());
    }
    let width = all.iter().map(|d| d.name.len()).max().unwrap_or(0).max("NAME".len());
    let head = format!("{:<width$}  {:<8}  {:<19}  {:<20}  LABEL", "NAME", "STATE", "KEY", "LAST SEEN");
    outln!("{}", paint(Ink::Quiet, &head))?;
    Ok(all.iter().try_for_each(|d| outln!("{}", line(d, width)))?)
}

fn line(d: &DeviceRecord, width: usize) -> String {
    let ink = match d.state {
        DeviceState::Approved => Ink::Good,
        DeviceState::Revoked => Ink::Error,
        DeviceState::Invited | DeviceState::Pending => Ink::Warning,
    };
    let time = |ms: u64| {
        let at = jiff::Timestamp::from_millisecond(i64::try_from(ms).unwrap_or(i64::MAX));
        at.map_or_else(|_| "-".to_owned(), |t| t.strftime("%Y-%m-%d %H:%M UTC").to_string())
    };
    let seen = d.last_seen_ms.map_or_else(|| "-".to_owned(), time);
    let note = match d.expires_ms {
        Some(ms) => format!("invitation expires {}", time(ms)),
        None if d.must_pair_again => "joined with an earlier version: must pair again".to_owned(),
        None => d.label.clone(),
    };
    let state = paint(ink, &format!("{:<8}", d.state.word()));
    let key = d.fingerprint.as_deref().unwrap_or("-");
    format!("{:<width$}  {state}  {key:<19}  {seen:<20}  {note}", d.name).trim_end().to_owned()
}
