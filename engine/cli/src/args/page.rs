//! The arguments of the page, of its tokens, and of logs.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::Format;

/// Where `headstart serve` shows its page.
#[derive(Args)]
pub struct PageArgs {
    /// Serve a page for browsers at this address; port 0 takes any free one.
    #[arg(
        long = "page", value_name = "ADDR:PORT", num_args = 0..=1,
        default_missing_value = "127.0.0.1:7880", value_parser = super::address
    )]
    pub address: Option<SocketAddr>,
    /// The address at which people open the page, where that is not this machine's own.
    #[arg(long = "page-url", value_name = "URL", requires = "address")]
    pub url: Option<String>,
    /// Certificate chain of the page, in PEM.
    #[arg(long = "page-cert", value_name = "FILE", requires_all = ["address", "key"])]
    pub cert: Option<PathBuf>,
    /// Private key of the certificate, in PEM.
    #[arg(long = "page-key", value_name = "FILE", requires = "cert")]
    pub key: Option<PathBuf>,
    /// A proxy of yours serves the page with TLS under `--page-url`, and keeps the `Host` header.
    #[arg(long = "page-behind-proxy", requires = "url", conflicts_with = "cert")]
    pub behind_proxy: bool,
}

/// `headstart tokens`
#[derive(Subcommand)]
pub enum TokensCommand {
    /// Make a token and print it. It is kept hashed, and cannot be printed again.
    Create {
        /// A name for it, such as the person or program that it is for.
        #[arg(value_name = "NAME")]
        name: String,
        /// What its holder may do.
        #[arg(long, value_enum, default_value_t)]
        role: TokenRole,
    },
    /// List all tokens.
    List {
        /// Output format.
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// Revoke a token; whoever signed in with it is signed out.
    Revoke {
        /// Its name.
        #[arg(value_name = "NAME")]
        name: String,
    },
}

/// What the holder of a token may do.
#[derive(ValueEnum, Clone, Copy, Default, PartialEq, Eq)]
pub enum TokenRole {
    /// See everything; pause, resume and run schedules; approve and revoke devices.
    #[default]
    Operator,
    /// See everything.
    ReadOnly,
}

/// `headstart logs`
#[derive(Args)]
pub struct Logs {
    /// The run, or a unique prefix of its id.
    #[arg(value_name = "RUN")]
    pub run: String,
    /// The stage: `said`, or `said["friendly"]`.
    #[arg(value_name = "STAGE")]
    pub stage: String,
    /// Go on as long as the run is running.
    #[arg(long)]
    pub follow: bool,
}
