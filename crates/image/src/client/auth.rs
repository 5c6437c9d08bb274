//! Authorization: from a 401 to the same request with credentials.
//!
//! ```text
//! request ──401──▶ challenge ──▶ candidate 1 ──▶ request ──401/403──▶ candidate 2 ──▶ … ──▶ error
//!                                  │ Basic:  user and password, as they are
//!                                  └ Bearer: a token, in exchange for what the candidate has (or for nothing)
//! ```
//!
//! A 401 carries the challenge; a 403 usually does not, and then the one before it counts.
//!
//! What worked is kept per repository, actions and set of pull secrets, so that credentials of one caller
//! never serve another. A token that the registry no longer takes is forgotten and the dance begins anew.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose};
use bytes::Bytes;
use http::{
    HeaderValue, Method, StatusCode,
    header::{CONTENT_TYPE, WWW_AUTHENTICATE},
};
use reqwest::Url;
use serde::Deserialize;

use super::{
    Access, Actions, Client,
    challenge::{self, Challenge},
    connections::is_loopback,
    error::RegistryError,
    transport::{Outgoing, Payload, Reply, Target, host_of},
};
use crate::{
    credentials::{self, Candidates, Credential, FoundCredential},
    digest::Digest,
    registries::Trust,
};

/// How long a token lives that does not say so (Distribution specification, "Token Authentication").
const DEFAULT_TOKEN_LIFE: Duration = Duration::from_secs(60);
/// Tokens are given up this long before they end, so that they do not end on the way.
const TOKEN_MARGIN: Duration = Duration::from_secs(5);
/// The most that a token server may send.
const LARGEST_TOKEN_ANSWER_BYTES: u64 = 1024 * 1024;
/// The most credentials that are tried for one request.
const MOST_CANDIDATES: usize = 8;
/// How we introduce ourselves to token servers.
const CLIENT_ID: &str = "ferrovirt";

/// What worked, until it ends.
#[derive(Default)]
pub(super) struct Authorizations {
    known: Mutex<HashMap<Key, Authorization>>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    registry: String,
    repository: String,
    actions: Actions,
    trust: Trust,
    secrets: Vec<Digest>,
}

#[derive(Clone)]
struct Authorization {
    header: HeaderValue,
    ends: Option<Instant>,
}

impl Key {
    fn of(access: &Access<'_>) -> Self {
        Self {
            registry: access.endpoint.registry.clone(),
            repository: access.endpoint.repository.clone(),
            actions: access.actions,
            trust: access.endpoint.trust,
            secrets: access.secrets.iter().map(|secret| secret.identity().clone()).collect(),
        }
    }
}

impl Authorizations {
    fn get(&self, key: &Key) -> Option<HeaderValue> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let authorization = known.get(key)?;
        authorization.ends.is_none_or(|ends| ends > Instant::now()).then(|| authorization.header.clone())
    }

    fn put(&self, key: Key, authorization: Authorization) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(key, authorization);
    }

    fn forget(&self, key: &Key) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }
}

/// The candidates for one request, and how far they were tried.
struct Dance {
    /// `None` stands for nobody: a token server may give a token for nothing.
    attempts: std::vec::IntoIter<Option<FoundCredential>>,
    searched: Vec<String>,
    refused: Vec<String>,
}

impl Dance {
    fn new(candidates: Candidates) -> Self {
        let mut attempts: Vec<Option<FoundCredential>> =
            candidates.found.into_iter().take(MOST_CANDIDATES).map(Some).collect();
        if attempts.is_empty() {
            attempts.push(None);
        }
        Self { attempts: attempts.into_iter(), searched: candidates.searched, refused: Vec::new() }
    }
}

/// How to prove who we are, as the last reply had it that said so.
struct Asked {
    challenges: Vec<Challenge>,
    url: Url,
    host: String,
}

impl Asked {
    fn by(reply: &Reply) -> Self {
        let challenges = reply
            .response
            .headers()
            .get_all(WWW_AUTHENTICATE)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(challenge::parse)
            .collect();
        Self { challenges, url: reply.url.clone(), host: reply.host.clone() }
    }
}

/// What a candidate came to.
enum Exchanged {
    Authorization(Authorization),
    /// The registry or its token server does not take it, in its own words.
    Refused(String),
}

impl Client {
    /// Sends a request, with credentials once they are asked for. Statuses other than 401 are the caller's
    /// business.
    pub(super) async fn exchange(
        &self,
        request: &Outgoing,
        access: &Access<'_>,
    ) -> Result<Reply, RegistryError> {
        let key = Key::of(access);
        let authorizations = &self.shared.authorizations;
        let mut header = authorizations.get(&key);
        let mut dance: Option<Dance> = None;
        let mut asked: Option<Asked> = None;
        // Set while a candidate is being tried: who it is, and what to remember if the registry takes it.
        let mut trying: Option<(Option<FoundCredential>, Authorization)> = None;
        loop {
            let mut reply = self.deliver(request, access, header.as_ref()).await?;
            let status = reply.response.status();
            let more_to_try = dance.as_ref().is_some_and(|dance| dance.attempts.len() > 0);
            let is_refusal =
                status == StatusCode::UNAUTHORIZED || (status == StatusCode::FORBIDDEN && more_to_try);
            if !is_refusal {
                if let Some((_, authorization)) = trying {
                    authorizations.put(key, authorization);
                }
                return Ok(reply);
            }
            if trying.is_none() && header.is_some() {
                authorizations.forget(&key);
            }
            let asked_now = Asked::by(&reply);
            let asked = match &mut asked {
                Some(asked) if asked_now.challenges.is_empty() => asked,
                asked => asked.insert(asked_now),
            };
            let mut detail = self.detail_of(&mut reply, access.what).await;
            let dance = match &mut dance {
                Some(dance) => dance,
                None => {
                    let candidates = credentials::candidates(
                        &self.shared.settings,
                        &self.shared.registries.credential_helpers(),
                        &access.endpoint.registry,
                        &access.endpoint.repository,
                        access.secrets,
                    )
                    .await?;
                    dance.insert(Dance::new(candidates))
                }
            };
            if let Some((Some(candidate), _)) = trying.take() {
                dance.refused.push(candidate.origin);
            }
            header = None;
            while header.is_none() {
                let Some(candidate) = dance.attempts.next() else {
                    return Err(exhausted(dance, &reply.host, access, detail));
                };
                match self.authorize(asked, candidate.as_ref(), access).await? {
                    Exchanged::Authorization(authorization) => {
                        header = Some(authorization.header.clone());
                        trying = Some((candidate, authorization));
                    }
                    Exchanged::Refused(reason) => {
                        if let Some(candidate) = candidate {
                            dance.refused.push(candidate.origin);
                        }
                        if !reason.is_empty() {
                            detail = reason;
                        }
                    }
                }
            }
        }
    }

    async fn authorize(
        &self,
        asked: &Asked,
        candidate: Option<&FoundCredential>,
        access: &Access<'_>,
    ) -> Result<Exchanged, RegistryError> {
        let credential = candidate.map(|candidate| &candidate.credential);
        if let Some(Credential::RegistryToken(token)) = credential {
            return Ok(bearer(token.reveal(), None));
        }
        let named = |scheme: &str| asked.challenges.iter().find(|challenge| challenge.scheme == scheme);
        if let Some(challenge) = named("bearer")
            && let Some(realm) = challenge.parameter("realm")
        {
            return self.fetch_token(realm, challenge, credential, &asked.url, access).await;
        }
        if named("basic").is_some() {
            return Ok(match credential {
                Some(Credential::Password { user, password }) => {
                    match sensitive(&basic(user, password.reveal())) {
                        Some(header) => Exchanged::Authorization(Authorization { header, ends: None }),
                        None => Exchanged::Refused(String::new()),
                    }
                }
                _ => Exchanged::Refused(String::new()),
            });
        }
        let mut schemes: Vec<&str> =
            asked.challenges.iter().map(|challenge| challenge.scheme.as_str()).collect();
        if schemes.is_empty() {
            schemes.push("none named");
        }
        Err(RegistryError::UnsupportedChallenge {
            host: asked.host.clone(),
            what: access.what.to_owned(),
            challenge: schemes.join(", "),
        })
    }

    async fn fetch_token(
        &self,
        realm: &str,
        challenge: &Challenge,
        credential: Option<&Credential>,
        asked_at: &Url,
        access: &Access<'_>,
    ) -> Result<Exchanged, RegistryError> {
        let no_token = |host: &str| RegistryError::Token { host: host.to_owned() };
        let mut url = asked_at.join(realm).map_err(|_| no_token(realm))?;
        let host = host_of(&url);
        let may_be_plain = access.endpoint.trust == Trust::Insecure || is_loopback(&host);
        if url.scheme() != "https" && !(url.scheme() == "http" && may_be_plain) {
            return Err(RegistryError::PlainTokenServer { host });
        }
        let service = challenge.parameter("service");
        let own_scope = format!("repository:{}:{}", access.endpoint.repository, access.actions.scope());
        let scope = challenge.parameter("scope").filter(|scope| !scope.is_empty()).unwrap_or(&own_scope);

        let mut request = Outgoing::new(Method::GET, String::new());
        let mut header = None;
        if let Some(Credential::IdentityToken(token)) = credential {
            // OAuth2, RFC 6749, section 6, as the Distribution project's "OAuth2 Token Authentication" has
            // it.
            let mut pairs = vec![
                ("grant_type", "refresh_token"),
                ("client_id", CLIENT_ID),
                ("refresh_token", token.reveal()),
                ("scope", scope),
            ];
            pairs.extend(service.map(|service| ("service", service)));
            request.method = Method::POST;
            request
                .headers
                .insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
            request.payload = Payload::Bytes(Bytes::from(form(&pairs)));
        } else {
            let mut query = url.query_pairs_mut();
            if let Some(service) = service {
                query.append_pair("service", service);
            }
            for one in scope.split(' ').filter(|one| !one.is_empty()) {
                query.append_pair("scope", one);
            }
            if let Some(Credential::Password { user, password }) = credential {
                query.append_pair("account", user);
                header = sensitive(&basic(user, password.reveal()));
            }
        }
        request.target = Target::TokenServer(url);
        let what = format!("a token for {}", access.what);
        let access = Access { what: &what, ..*access };
        let mut reply = self.deliver(&request, &access, header.as_ref()).await?;
        match reply.response.status() {
            status if status.is_success() => {}
            StatusCode::BAD_REQUEST | StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                return Ok(Exchanged::Refused(self.detail_of(&mut reply, &what).await));
            }
            _ => return Err(self.failure_of(reply, &access).await),
        }
        let body = self.read_small_body(&mut reply, &what, LARGEST_TOKEN_ANSWER_BYTES).await?;
        // The parser's message might quote the token, so it is left out.
        let answer: TokenAnswer = serde_json::from_slice(&body).map_err(|_| no_token(&reply.host))?;
        let token = [answer.token, answer.access_token].into_iter().flatten().find(|token| !token.is_empty());
        let token = token.ok_or_else(|| no_token(&reply.host))?;
        let life = answer.expires_in.map_or(DEFAULT_TOKEN_LIFE, Duration::from_secs);
        let ends = Instant::now().checked_add(life.saturating_sub(TOKEN_MARGIN));
        match bearer(&token, ends) {
            Exchanged::Refused(_) => Err(no_token(&reply.host)),
            authorization => Ok(authorization),
        }
    }
}

#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
}

fn exhausted(dance: &mut Dance, host: &str, access: &Access<'_>, detail: String) -> RegistryError {
    let (host, what) = (host.to_owned(), access.what.to_owned());
    if dance.refused.is_empty() {
        RegistryError::NoCredentials {
            host,
            what,
            repository: format!("{}/{}", access.endpoint.registry, access.endpoint.repository),
            searched: std::mem::take(&mut dance.searched),
            detail,
        }
    } else {
        RegistryError::CredentialsRefused { host, what, tried: std::mem::take(&mut dance.refused), detail }
    }
}

fn bearer(token: &str, ends: Option<Instant>) -> Exchanged {
    match sensitive(&format!("Bearer {token}")) {
        Some(header) => Exchanged::Authorization(Authorization { header, ends }),
        None => Exchanged::Refused(String::new()),
    }
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", general_purpose::STANDARD.encode(format!("{user}:{password}")))
}

/// A header value that debug output hides; nothing where the text cannot be a header's value.
fn sensitive(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// `application/x-www-form-urlencoded`.
fn form(pairs: &[(&str, &str)]) -> String {
    let mut url = Url::parse("http://form").expect("the text is a URL");
    url.query_pairs_mut().extend_pairs(pairs);
    url.query().unwrap_or_default().to_owned()
}
