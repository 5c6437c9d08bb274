//! Connection pools: which scheme a host speaks, which certificates and proxies apply to it.

use std::{
    collections::HashMap,
    net::IpAddr,
    path::PathBuf,
    sync::{Mutex, PoisonError},
};

use reqwest::Url;

use super::error::{RegistryError, TransportError};
use crate::{
    certs,
    registries::Trust,
    settings::{Proxies, RegistrySettings, TimeLimits},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Scheme {
    Http,
    Https,
}

impl Scheme {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// Everything in which one connection pool differs from another.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct PoolKey {
    scheme: Scheme,
    trust: Trust,
    /// Loopback addresses are reached without a proxy.
    is_loopback: bool,
    /// The host, where certs.d has certificates for it.
    own_certificates: Option<String>,
}

/// Connection pools, made when first needed: the system's root certificates are not even read for plain HTTP.
pub(super) struct Connections {
    certs_directories: Vec<PathBuf>,
    proxies: Proxies,
    pub(super) limits: TimeLimits,
    pools: Mutex<HashMap<PoolKey, reqwest::Client>>,
    /// What hosts were found to speak. What one speaks in plain HTTP to an insecure repository says nothing about a
    /// repository of the same host that has to be verified.
    schemes: Mutex<HashMap<(String, Trust), Scheme>>,
}

impl Connections {
    pub(super) fn new(settings: &RegistrySettings) -> Self {
        Self {
            certs_directories: settings.certs_directories.clone(),
            proxies: settings.proxies.clone(),
            limits: settings.time_limits,
            pools: Mutex::default(),
            schemes: Mutex::default(),
        }
    }

    /// The schemes to try with `host`, in order. The second is tried only if the first turns out to be the
    /// wrong one.
    pub(super) fn schemes(&self, host: &str, trust: Trust) -> Result<Vec<Scheme>, RegistryError> {
        let key = (host.to_owned(), trust);
        let remembered = self.schemes.lock().unwrap_or_else(PoisonError::into_inner).get(&key).copied();
        if let Some(scheme) = remembered {
            return Ok(vec![scheme]);
        }
        Ok(match (is_loopback(host), trust) {
            (true, Trust::Verified) if certs::find(&self.certs_directories, host)?.is_some() => {
                vec![Scheme::Https, Scheme::Http]
            }
            (true, _) => vec![Scheme::Http, Scheme::Https],
            (false, Trust::Insecure) => vec![Scheme::Https, Scheme::Http],
            (false, Trust::Verified) => vec![Scheme::Https],
        })
    }

    pub(super) fn remember(&self, host: &str, trust: Trust, scheme: Scheme) {
        let key = (host.to_owned(), trust);
        self.schemes.lock().unwrap_or_else(PoisonError::into_inner).insert(key, scheme);
    }

    /// The pool for `url`, whose host is called `host` in certs.d.
    pub(super) fn pool(&self, url: &Url, host: &str, trust: Trust) -> Result<reqwest::Client, RegistryError> {
        let scheme = if url.scheme() == "http" { Scheme::Http } else { Scheme::Https };
        let certificates = match scheme {
            Scheme::Http => None,
            Scheme::Https => certs::find(&self.certs_directories, host)?,
        };
        let key = PoolKey {
            scheme,
            trust,
            is_loopback: is_loopback(host),
            own_certificates: certificates.as_ref().map(|_| host.to_owned()),
        };
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pool) = pools.get(&key) {
            return Ok(pool.clone());
        }
        // Harmless if somebody installed a provider before: there is but one, and any will do.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("ferrovirt/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(self.limits.connect)
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .no_proxy();
        if !key.is_loopback {
            builder = self.with_proxies(builder, host)?;
        }
        match (scheme, trust) {
            (Scheme::Http, _) => builder = builder.tls_certs_only([]),
            (Scheme::Https, Trust::Insecure) => builder = builder.tls_danger_accept_invalid_certs(true),
            (Scheme::Https, Trust::Verified) => {}
        }
        if let Some(certificates) = &certificates {
            builder = certs::apply(certificates, host, builder)?;
        }
        let pool = builder.build().map_err(|source| RegistryError::Setup {
            host: host.to_owned(),
            source: TransportError::root_of(source),
        })?;
        pools.insert(key, pool.clone());
        Ok(pool)
    }

    fn with_proxies(
        &self,
        mut builder: reqwest::ClientBuilder,
        host: &str,
    ) -> Result<reqwest::ClientBuilder, RegistryError> {
        let exceptions = || self.proxies.exceptions.as_deref().and_then(reqwest::NoProxy::from_string);
        let fault = |source: reqwest::Error| RegistryError::Proxy {
            host: host.to_owned(),
            source: TransportError::root_of(source),
        };
        if let Some(proxy) = &self.proxies.http {
            builder = builder.proxy(reqwest::Proxy::http(proxy).map_err(fault)?.no_proxy(exceptions()));
        }
        if let Some(proxy) = &self.proxies.https {
            builder = builder.proxy(reqwest::Proxy::https(proxy).map_err(fault)?.no_proxy(exceptions()));
        }
        Ok(builder)
    }
}

/// Whether `host` (with or without port) is an address of this machine that never leaves it.
pub(super) fn is_loopback(host: &str) -> bool {
    if let Some(literal) = host.strip_prefix('[') {
        let address = literal.split(']').next().unwrap_or_default();
        return address.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    }
    let name = host.split(':').next().unwrap_or_default();
    name == "localhost" || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_recognised_by_name_and_address() {
        for host in ["localhost", "localhost:5000", "127.0.0.1:5000", "127.8.9.1", "[::1]:5000", "[::1]"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["localhost.example.com", "10.0.0.1", "[::2]:5000", "127.example.com", ""] {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
