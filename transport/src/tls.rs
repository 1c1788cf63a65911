//! TLS 1.3 with raw public keys: no certificate authority, no names, only keys that the two sides pinned.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, OtherError,
    PeerMisbehaved, ServerConfig, SignatureScheme, client, server, version,
};

use crate::identity::{Identity, PublicKey};

/// An Ed25519 key's SubjectPublicKeyInfo before the key itself (RFC 8410).
const SPKI: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0];

/// The engine's side: shows its key, and takes any device that proves to hold the key that it shows. Which
/// of them it works with is decided above TLS.
///
/// # Errors
/// If the TLS library does not take the key.
pub fn server_config(engine: &Identity) -> Result<ServerConfig, Error> {
    let provider = Arc::new(ring::default_provider());
    let key = certified(engine, &provider)?;
    let mut config = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&version::TLS13])?
        .with_client_cert_verifier(Arc::new(AnyDevice(provider)))
        .with_cert_resolver(Arc::new(server::AlwaysResolvesServerRawPublicKeys::new(key)));
    // Each connection proves its keys again.
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(server::NoServerSessionStorage {});
    Ok(config)
}

/// The device's side: shows its key, and speaks with the engine of one key only.
///
/// # Errors
/// If the TLS library does not take the key.
pub fn client_config(device: &Identity, engine: PublicKey) -> Result<ClientConfig, Error> {
    let provider = Arc::new(ring::default_provider());
    let key = certified(device, &provider)?;
    let pinned = Arc::new(Pinned { engine, provider: Arc::clone(&provider) });
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(pinned)
        .with_client_cert_resolver(Arc::new(client::AlwaysResolvesClientRawPublicKeys::new(key)));
    config.resumption = client::Resumption::disabled();
    Ok(config)
}

/// The key that the other side of a connection has proven to hold.
pub fn peer_key(shown: Option<&[CertificateDer<'_>]>) -> Option<PublicKey> {
    raw_key(shown?.first()?)
}

fn raw_key(shown: &CertificateDer<'_>) -> Option<PublicKey> {
    let key = shown.as_ref().strip_prefix(&SPKI)?;
    PublicKey::from_bytes(key.try_into().ok()?)
}

fn certified(identity: &Identity, provider: &CryptoProvider) -> Result<Arc<CertifiedKey>, Error> {
    let key = PrivatePkcs8KeyDer::from(identity.pkcs8());
    let key = provider.key_provider.load_private_key(key.into())?;
    let shown = [&SPKI[..], identity.public().as_bytes()].concat();
    Ok(Arc::new(CertifiedKey::new(vec![CertificateDer::from(shown)], key)))
}

/// The engine has another key than the device pinned.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the engine shows another key than the one that this device is paired with")]
pub struct OtherKey {
    /// The key that it shows, if it is one.
    pub shown: Option<PublicKey>,
}

impl OtherKey {
    /// Finds it among the causes of an error.
    pub fn in_chain(error: &(dyn std::error::Error + 'static)) -> Option<Self> {
        let mut next = Some(error);
        while let Some(e) = next {
            if let Some(Error::InvalidCertificate(CertificateError::Other(OtherError(other)))) =
                e.downcast_ref()
                && let Some(found) = other.downcast_ref::<Self>()
            {
                return Some(*found);
            }
            // An error of I/O names as its source only what is below the error that it wraps.
            let wrapped = e.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
            if let Some(found) = wrapped.and_then(|inner| Self::in_chain(inner)) {
                return Some(found);
            }
            next = e.source();
        }
        None
    }
}

/// Only the engine of this key.
#[derive(Debug)]
struct Pinned {
    engine: PublicKey,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let shown = raw_key(shown);
        if shown == Some(self.engine) {
            return Ok(ServerCertVerified::assertion());
        }
        Err(CertificateError::Other(OtherError(Arc::new(OtherKey { shown }))).into())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify(message, shown, dss, &self.provider)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

/// Any device that proves to hold an Ed25519 key.
#[derive(Debug)]
struct AnyDevice(Arc<CryptoProvider>);

impl ClientCertVerifier for AnyDevice {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        shown: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        match raw_key(shown) {
            Some(_) => Ok(ClientCertVerified::assertion()),
            None => Err(CertificateError::BadEncoding.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify(message, shown, dss, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

fn verify(
    message: &[u8],
    shown: &CertificateDer<'_>,
    dss: &DigitallySignedStruct,
    provider: &CryptoProvider,
) -> Result<HandshakeSignatureValid, Error> {
    let key = SubjectPublicKeyInfoDer::from(shown.as_ref());
    verify_tls13_signature_with_raw_key(message, &key, dss, &provider.signature_verification_algorithms)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use rustls::{ClientConnection, Connection, ServerConnection};

    use super::*;

    /// Both sides in memory, until the handshake is over; an error of either.
    fn handshake(
        client: ClientConfig,
        server: ServerConfig,
    ) -> Result<(ClientConnection, ServerConnection), Error> {
        let name = ServerName::try_from("engine").expect("a name");
        let mut client = Connection::from(ClientConnection::new(Arc::new(client), name)?);
        let mut server = Connection::from(ServerConnection::new(Arc::new(server))?);
        while client.is_handshaking()
            || server.is_handshaking()
            || client.wants_write()
            || server.wants_write()
        {
            pass(&mut client, &mut server)?;
            pass(&mut server, &mut client)?;
        }
        match (client, server) {
            (Connection::Client(c), Connection::Server(s)) => Ok((c, s)),
            _ => unreachable!("made as such above"),
        }
    }

    fn pass(from: &mut Connection, to: &mut Connection) -> Result<(), Error> {
        let mut bytes = Vec::new();
        while from.wants_write() {
            from.write_tls(&mut bytes).expect("memory");
        }
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            to.read_tls(&mut rest).expect("memory");
            to.process_new_packets()?;
        }
        Ok(())
    }

    #[test]
    fn both_sides_know_each_others_key_and_nothing_else_gets_through() {
        let (engine, phone) = (Identity::from_secret(&[1; 32]), Identity::from_secret(&[2; 32]));
        let config = |pinned: &Identity| client_config(&phone, pinned.public()).expect("a key");
        let server = || server_config(&engine).expect("a key");
        let (mut c, mut s) = handshake(config(&engine), server()).expect("agree");
        assert_eq!(peer_key(s.peer_certificates()), Some(phone.public()));
        assert_eq!(peer_key(c.peer_certificates()), Some(engine.public()));
        assert_eq!(s.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
        c.writer().write_all(b"hello").expect("memory");
        let mut bytes = Vec::new();
        c.write_tls(&mut bytes).expect("memory");
        s.read_tls(&mut &bytes[..]).expect("memory");
        s.process_new_packets().expect("well formed");
        let mut got = [0; 5];
        s.reader().read_exact(&mut got).expect("arrived");
        assert_eq!(&got, b"hello");

        let e = handshake(config(&Identity::from_secret(&[3; 32])), server()).expect_err("another engine");
        assert_eq!(OtherKey::in_chain(&e).and_then(|o| o.shown), Some(engine.public()), "{e}");
    }

    /// A rogue that states the engine's public key but does not hold its secret.
    #[test]
    fn a_key_that_is_shown_but_not_held_is_refused() {
        let (engine, rogue) = (Identity::from_secret(&[1; 32]), Identity::from_secret(&[9; 32]));
        let phone = Identity::from_secret(&[2; 32]);
        let provider = Arc::new(ring::default_provider());
        let key = provider.key_provider.load_private_key(PrivatePkcs8KeyDer::from(rogue.pkcs8()).into());
        let stated = [&SPKI[..], engine.public().as_bytes()].concat();
        let certified = CertifiedKey::new(vec![CertificateDer::from(stated)], key.expect("a key"));
        let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&version::TLS13])
            .expect("TLS 1.3")
            .with_client_cert_verifier(Arc::new(AnyDevice(provider)))
            .with_cert_resolver(Arc::new(server::AlwaysResolvesServerRawPublicKeys::new(Arc::new(
                certified,
            ))));
        let e =
            handshake(client_config(&phone, engine.public()).expect("a key"), server).expect_err("refused");
        assert!(matches!(e, Error::InvalidCertificate(CertificateError::BadSignature)), "{e:?}");
    }

    /// Nobody gets through without a key, as a browser would try.
    #[test]
    fn a_client_without_a_key_is_refused() {
        let engine = Identity::from_secret(&[1; 32]);
        let provider = Arc::new(ring::default_provider());
        let pinned = Arc::new(Pinned { engine: engine.public(), provider: Arc::clone(&provider) });
        let client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&version::TLS13])
            .expect("TLS 1.3")
            .dangerous()
            .with_custom_certificate_verifier(pinned)
            .with_no_client_auth();
        assert!(handshake(client, server_config(&engine).expect("a key")).is_err());
    }
}
