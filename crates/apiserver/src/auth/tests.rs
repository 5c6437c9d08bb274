#![allow(clippy::unwrap_used)]

mod pki;
mod texts;
mod tokens;

use std::path::Path;
use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue};
use jiff::{SignedDuration, Timestamp};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tempfile::TempDir;

use super::*;

const DAY: SignedDuration = SignedDuration::from_hours(24);

fn now() -> Timestamp {
    "2026-11-22T12:00:00Z".parse().unwrap()
}

fn names() -> ServerNames {
    ServerNames {
        host_names: vec!["Host.example".to_owned(), "not a name".to_owned()],
        addresses: vec!["192.0.2.7".parse().unwrap(), "0.0.0.0".parse().unwrap()],
    }
}

fn open(directory: &Path, at: Timestamp) -> Result<Authorities, PkiError> {
    Authorities::open_or_create(directory, &names(), at)
}

fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
    pairs
        .iter()
        .map(|(name, value)| {
            (HeaderName::try_from(*name).unwrap(), HeaderValue::from_bytes(value.as_bytes()).unwrap())
        })
        .collect()
}

fn read(directory: &TempDir, file: &str) -> String {
    std::fs::read_to_string(directory.path().join("pki").join(file)).unwrap()
}

fn der(pem: &str) -> Vec<u8> {
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap().to_vec()
}

/// A handshake in memory: what the server sees of the client.
fn handshake(authorities: &Authorities, client: Option<(&str, &str)>) -> Result<Option<Vec<u8>>, String> {
    handshake_with(authorities, &authorities.server_config().unwrap(), client)
}

fn handshake_with(
    authorities: &Authorities,
    server: &Arc<rustls::ServerConfig>,
    client: Option<(&str, &str)>,
) -> Result<Option<Vec<u8>>, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(der(authorities.ca_certificate_pem()).into()).unwrap();
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match client {
        None => config.with_no_client_auth(),
        Some((certificate, key)) => {
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
            config
                .with_client_auth_cert(vec![der(certificate).into()], key)
                .map_err(|error| error.to_string())?
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    let name = ServerName::try_from("kubernetes.default.svc").unwrap();
    let mut client = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let mut server = rustls::ServerConnection::new(Arc::clone(server)).unwrap();
    while client.is_handshaking() || server.is_handshaking() {
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        server.read_tls(&mut &bytes[..]).unwrap();
        server.process_new_packets().map_err(|error| error.to_string())?;
        let mut bytes = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut bytes).unwrap();
        }
        let mut bytes = &bytes[..];
        while !bytes.is_empty() {
            client.read_tls(&mut bytes).unwrap();
            client.process_new_packets().map_err(|error| error.to_string())?;
        }
    }
    assert_eq!(server.alpn_protocol(), Some(&b"h2"[..]));
    Ok(server.peer_certificates().and_then(<[_]>::first).map(|certificate| certificate.to_vec()))
}

/// The time that rustls sees is the real one.
fn made_now(directory: &TempDir) -> Arc<Authorities> {
    Arc::new(open(directory.path(), Timestamp::now()).unwrap())
}
