//! Making certificates, and reading what matters of them.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType, SerialNumber, date_time_ymd,
};
use ring::rand::{SecureRandom, SystemRandom};
use rustls::pki_types::DnsName;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{PkiError, ServerNames};

/// How long the CA lasts: kubeadm's ten years.
const AUTHORITY_LIFE: SignedDuration = SignedDuration::from_hours(10 * 365 * 24);
/// How long the other certificates last: kubeadm's one year.
const LEAF_LIFE: SignedDuration = SignedDuration::from_hours(365 * 24);
/// Certificates are valid from a little before they are made, for clients whose clocks are behind.
const BACKDATED: SignedDuration = SignedDuration::from_hours(1);

/// One name or address that a server certificate is good for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum SubjectName {
    /// A DNS name, lower case.
    Dns(String),
    /// An address.
    Ip(IpAddr),
}

/// What a server certificate must be good for: the names that pods and people know the server by, and the given ones.
/// A host name that no certificate can hold is left out.
pub(super) fn server_names(names: &ServerNames) -> BTreeSet<SubjectName> {
    let fixed = [
        "localhost",
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
    ];
    let given = names.host_names.iter().map(|name| name.to_ascii_lowercase());
    let given = given.filter(|name| DnsName::try_from(name.as_str()).is_ok());
    let addresses = [
        IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(Ipv6Addr::LOCALHOST),
        // The first address of Kubernetes' usual service range.
        IpAddr::V4(Ipv4Addr::new(10, 96, 0, 1)),
    ];
    let listening = names.addresses.iter().copied().filter(|address| !address.is_unspecified());
    fixed
        .into_iter()
        .map(str::to_owned)
        .chain(given)
        .map(SubjectName::Dns)
        .chain(addresses.into_iter().chain(listening).map(SubjectName::Ip))
        .collect()
}

/// What a certificate is for.
#[derive(Debug, Clone)]
pub(super) enum Purpose {
    /// The server's own.
    Server(BTreeSet<SubjectName>),
    /// A user's.
    Client {
        /// The user.
        user: String,
        /// The group.
        group: String,
    },
}

impl Purpose {
    /// Whether a certificate of ours says this, and nothing else.
    pub(super) fn is_that_of(&self, facts: &Facts) -> bool {
        match self {
            Self::Server(names) => facts.names == *names,
            Self::Client { user, group } => {
                facts.common_name == *user && facts.organizations == [group.as_str()]
            }
        }
    }
}

/// What is read from a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Facts {
    pub not_before: Timestamp,
    pub not_after: Timestamp,
    pub is_authority: bool,
    pub public_key: Vec<u8>,
    pub names: BTreeSet<SubjectName>,
    /// The subject's common name; empty without one.
    pub common_name: String,
    /// The subject's organizations.
    pub organizations: Vec<String>,
    /// The subject key identifier: which key this is.
    pub key_id: Option<Vec<u8>>,
    /// The authority key identifier: which key signed this.
    pub authority_key_id: Option<Vec<u8>>,
}

impl Facts {
    /// `None` when it is no certificate.
    pub(super) fn of(der: &[u8]) -> Option<Self> {
        let (rest, certificate) = X509Certificate::from_der(der).ok()?;
        if !rest.is_empty() {
            return None;
        }
        let names = certificate.subject_alternative_name().ok()?.map(|names| {
            let names = names.value.general_names.iter().filter_map(|name| match name {
                GeneralName::DNSName(name) => Some(SubjectName::Dns(name.to_ascii_lowercase())),
                GeneralName::IPAddress(bytes) => address(bytes).map(SubjectName::Ip),
                _ => None,
            });
            names.collect()
        });
        let texts = |values: Vec<Option<&str>>| values.into_iter().flatten().map(str::to_owned).collect();
        let subject = certificate.subject();
        let mut common_names: Vec<String> =
            texts(subject.iter_common_name().map(|name| name.as_str().ok()).collect());
        Some(Self {
            not_before: Timestamp::from_second(certificate.validity().not_before.timestamp()).ok()?,
            not_after: Timestamp::from_second(certificate.validity().not_after.timestamp()).ok()?,
            is_authority: certificate.is_ca(),
            public_key: certificate.public_key().subject_public_key.data.to_vec(),
            names: names.unwrap_or_default(),
            // Go takes the last of several.
            common_name: common_names.pop().unwrap_or_default(),
            organizations: texts(subject.iter_organization().map(|name| name.as_str().ok()).collect()),
            key_id: certificate.iter_extensions().find_map(|extension| match extension.parsed_extension() {
                ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
                _ => None,
            }),
            authority_key_id: certificate.iter_extensions().find_map(|extension| {
                match extension.parsed_extension() {
                    ParsedExtension::AuthorityKeyIdentifier(id) => {
                        Some(id.key_identifier.as_ref()?.0.to_vec())
                    }
                    _ => None,
                }
            }),
        })
    }

    /// Whether the certificate counts at this time.
    pub(super) fn is_valid_at(&self, now: Timestamp) -> bool {
        self.not_before <= now && now <= self.not_after
    }

    /// Whether it is time for a new one: less than a third of its life is left, or it has not begun.
    pub(super) fn is_due(&self, now: Timestamp) -> bool {
        let life = self.not_after.duration_since(self.not_before);
        now < self.not_before || self.not_after.duration_since(now) < life / 3
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}

fn crypto(what: &'static str) -> impl Fn(rcgen::Error) -> PkiError {
    move |error| PkiError::Crypto { what, why: error.to_string() }
}

/// A new P-256 key, PEM (PKCS #8).
pub(super) fn new_key() -> Result<String, PkiError> {
    Ok(KeyPair::generate().map_err(crypto("a key"))?.serialize_pem())
}

/// A self-signed certificate of a new authority, PEM.
pub(super) fn new_authority(key: &KeyPair, now: Timestamp) -> Result<String, PkiError> {
    let mut params = parameters(now, now.saturating_add(AUTHORITY_LIFE).unwrap_or(now))?;
    params.distinguished_name = name("ferrovirt-ca", None);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages =
        vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params.self_signed(key).map_err(crypto("the CA's certificate"))?.pem())
}

/// A certificate for `key`, signed by the authority, PEM. It does not outlive the authority.
pub(super) fn new_leaf(
    key: &KeyPair,
    purpose: &Purpose,
    authority: (&str, &KeyPair),
    now: Timestamp,
) -> Result<String, PkiError> {
    let (authority_pem, authority_key) = authority;
    let issuer =
        Issuer::from_ca_cert_pem(authority_pem, authority_key).map_err(crypto("an issuer of the CA"))?;
    let last = pem_facts(authority_pem).map_or(now, |facts| facts.not_after);
    let mut params = parameters(now, now.saturating_add(LEAF_LIFE).unwrap_or(now).min(last))?;
    params.use_authority_key_identifier_extension = true;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    match purpose {
        Purpose::Server(names) => {
            params.distinguished_name = name("kube-apiserver", None);
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
            for subject in names {
                params.subject_alt_names.push(match subject {
                    SubjectName::Dns(name) => {
                        SanType::DnsName(name.as_str().try_into().map_err(crypto("a name"))?)
                    }
                    SubjectName::Ip(address) => SanType::IpAddress(*address),
                });
            }
        }
        Purpose::Client { user, group } => {
            params.distinguished_name = name(user, Some(group));
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        }
    }
    Ok(params.signed_by(key, &issuer).map_err(crypto("a certificate"))?.pem())
}

/// The facts of the first certificate of a PEM text.
pub(super) fn pem_facts(pem: &str) -> Option<Facts> {
    use rustls::pki_types::pem::PemObject;
    Facts::of(&rustls::pki_types::CertificateDer::from_pem_slice(pem.as_bytes()).ok()?)
}

fn parameters(now: Timestamp, until: Timestamp) -> Result<CertificateParams, PkiError> {
    let mut params = CertificateParams::default();
    let at = |at: Timestamp| {
        date_time_ymd(1970, 1, 1) + Duration::from_secs(u64::try_from(at.as_second()).unwrap_or_default())
    };
    params.not_before = at(now.saturating_sub(BACKDATED).unwrap_or(now));
    params.not_after = at(until);
    // Random, since a renewed certificate of the same key must have another number (RFC 5280, 4.1.2.2); the top bits
    // keep it positive and of one length.
    let mut serial = [0; 16];
    SystemRandom::new()
        .fill(&mut serial)
        .map_err(|error| PkiError::Crypto { what: "a serial number", why: error.to_string() })?;
    serial[0] = serial[0] & 0x3f | 0x40;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    Ok(params)
}

fn name(common_name: &str, organization: Option<&str>) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    if let Some(organization) = organization {
        name.push(DnType::OrganizationName, organization);
    }
    name.push(DnType::CommonName, common_name);
    name
}
