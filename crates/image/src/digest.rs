//! Content digests: the names by which the store, the registry client and the builder know bytes.
//!
//! Only `sha256` and `sha512` exist here, the two algorithms that the OCI image specification registers and
//! that registries serve. A `Digest` is checked when it is made, so that code which holds one can build file
//! names and URLs out of it without looking again.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use sha2::Digest as _;

/// A hash algorithm of the OCI image specification, section "Digests".
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Algorithm {
    /// SHA-256: what practically every image uses.
    Sha256,
    /// SHA-512: allowed by the specification, rare.
    Sha512,
}

impl Algorithm {
    /// The algorithm's registered name, as it stands before the colon.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    /// How many hexadecimal digits a digest of this algorithm has.
    pub const fn hex_length(self) -> usize {
        match self {
            Self::Sha256 => 64,
            Self::Sha512 => 128,
        }
    }
}

/// A digest that is known to be well formed: `sha256:` and 64, or `sha512:` and 128, lower-case hexadecimal
/// digits.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Digest {
    algorithm: Algorithm,
    hex: Box<str>,
}

/// Why a text is not a [`Digest`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// There is no `ALGORITHM:` in front.
    #[error("`{text}` is not a digest: it has no `sha256:` in front")]
    NoAlgorithm {
        /// The text as given.
        text: String,
    },
    /// The algorithm is none of those that images use here.
    #[error("digest `{text}` uses the unsupported algorithm `{algorithm}`")]
    UnsupportedAlgorithm {
        /// The text as given.
        text: String,
        /// What stands before the colon.
        algorithm: String,
    },
    /// The part after the colon has the wrong length or characters.
    #[error(
        "digest `{text}` does not have {expected_length} lower-case hexadecimal digits after `{}:`",
        algorithm.name()
    )]
    Malformed {
        /// The text as given.
        text: String,
        /// The algorithm before the colon.
        algorithm: Algorithm,
        /// How many digits that algorithm needs.
        expected_length: usize,
    },
}

impl Digest {
    /// The SHA-256 digest of bytes that are in memory.
    pub fn sha256_of(bytes: &[u8]) -> Self {
        let mut hasher = Hasher::new(Algorithm::Sha256);
        hasher.update(bytes);
        hasher.finish()
    }

    /// The digest of `bytes` under the given algorithm.
    pub fn of(algorithm: Algorithm, bytes: &[u8]) -> Self {
        let mut hasher = Hasher::new(algorithm);
        hasher.update(bytes);
        hasher.finish()
    }

    /// The algorithm in front of the colon.
    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The lower-case hexadecimal digits after the colon; safe as a file name.
    pub fn hex(&self) -> &str {
        &self.hex
    }

    /// The first 12 hexadecimal digits, for people.
    pub fn short(&self) -> &str {
        &self.hex[..12]
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let Some((name, hex)) = text.split_once(':') else {
            return Err(DigestError::NoAlgorithm { text: text.to_owned() });
        };
        let algorithm = match name {
            "sha256" => Algorithm::Sha256,
            "sha512" => Algorithm::Sha512,
            other => {
                return Err(DigestError::UnsupportedAlgorithm {
                    text: text.to_owned(),
                    algorithm: other.to_owned(),
                });
            }
        };
        let expected_length = algorithm.hex_length();
        let well_formed =
            hex.len() == expected_length && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if !well_formed {
            return Err(DigestError::Malformed { text: text.to_owned(), algorithm, expected_length });
        }
        Ok(Self { algorithm, hex: hex.into() })
    }
}

impl TryFrom<String> for Digest {
    type Error = DigestError;

    fn try_from(text: String) -> Result<Self, DigestError> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}", self.algorithm.name(), self.hex)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

/// Hashes bytes as they stream by.
#[derive(Clone)]
pub struct Hasher {
    state: State,
}

#[derive(Clone)]
enum State {
    Sha256(sha2::Sha256),
    Sha512(sha2::Sha512),
}

impl Hasher {
    /// An empty hash under `algorithm`.
    pub fn new(algorithm: Algorithm) -> Self {
        let state = match algorithm {
            Algorithm::Sha256 => State::Sha256(sha2::Sha256::new()),
            Algorithm::Sha512 => State::Sha512(sha2::Sha512::new()),
        };
        Self { state }
    }

    /// Takes in the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.state {
            State::Sha256(state) => state.update(bytes),
            State::Sha512(state) => state.update(bytes),
        }
    }

    /// The digest of everything taken in.
    pub fn finish(self) -> Digest {
        match self.state {
            State::Sha256(state) => Digest { algorithm: Algorithm::Sha256, hex: hex(&state.finalize()) },
            State::Sha512(state) => Digest { algorithm: Algorithm::Sha512, hex: hex(&state.finalize()) },
        }
    }
}

fn hex(bytes: &[u8]) -> Box<str> {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 0x0f)]));
    }
    text.into_boxed_str()
}

/// What a manifest says about a blob: how to name it, how large it is, and what is in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// The content's media type, for instance `application/vnd.oci.image.layer.v1.tar+gzip`.
    pub media_type: String,
    /// The content's digest.
    pub digest: Digest,
    /// The content's exact size in bytes.
    #[serde(rename = "size")]
    pub size_bytes: u64,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn known_answers() {
        assert_eq!(
            Digest::sha256_of(b"").to_string(),
            "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
        assert_eq!(Digest::of(Algorithm::Sha512, b"abc").hex().get(..16), Some("ddaf35a193617aba"));
    }

    #[test]
    fn the_hash_does_not_depend_on_how_bytes_arrive() {
        let mut hasher = Hasher::new(Algorithm::Sha256);
        hasher.update(b"ker");
        hasher.update(b"nel");
        assert_eq!(hasher.finish(), Digest::sha256_of(b"kernel"));
    }

    #[test]
    fn round_trip_through_text_and_json() {
        let digest = Digest::sha256_of(b"kernel");
        assert_eq!(digest.to_string().parse::<Digest>().unwrap(), digest);
        let json = serde_json::to_string(&digest).unwrap();
        assert_eq!(serde_json::from_str::<Digest>(&json).unwrap(), digest);
    }

    #[test]
    fn what_is_not_a_digest_is_refused_with_its_reason() {
        let refused = |text: &str| text.parse::<Digest>().unwrap_err().to_string();
        assert!(refused("latest").contains("has no `sha256:` in front"));
        assert!(refused("md5:00").contains("unsupported algorithm `md5`"));
        assert!(refused("sha256:00").contains("64 lower-case hexadecimal digits"));
        assert!(refused(&format!("sha256:{}", "A".repeat(64))).contains("lower-case"));
        assert!(refused(&format!("sha256:{}/", "a".repeat(63))).contains("lower-case"));
    }
}
