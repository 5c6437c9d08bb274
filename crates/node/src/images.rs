//! Image volumes: pulls, their events and back-off, and garbage collection.

use k8s_openapi::api::core::v1::Pod;

use crate::Settings;

/// Disk usage in percent at which images are removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thresholds {
    /// Above this, images are removed.
    pub high_percent: u8,
    /// Until usage is below this.
    pub low_percent: u8,
}

impl Default for Thresholds {
    /// As a kubelet has them (`KubeletConfiguration` v1beta1).
    fn default() -> Self {
        Self { high_percent: 85, low_percent: 80 }
    }
}

/// An image volume that is there. Its files stay in the store until this is dropped.
#[derive(Debug)]
pub struct LaidOut {
    /// The volume's name in the Pod.
    pub name: String,
    /// What the launcher is told.
    pub record: launcher::pod_dir::ImageVolume,
    /// Keeps the files.
    pub lease: image::store::Lease,
}

/// Why a volume is not there (yet): the waiting state of the containers that need it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// `ErrImagePull`, `ImagePullBackOff`, `ErrImageNeverPull` or `InvalidImageName`.
    pub reason: String,
    /// The kubelet's message.
    pub message: String,
    /// When to try again, if ever.
    pub retry_after: Option<std::time::Duration>,
}

/// Pulls for all Pods of a node.
#[derive(Clone)]
pub struct ImageManager {
    _client: kube::Client,
    _settings: Settings,
}

impl ImageManager {
    /// A manager.
    pub fn new(client: kube::Client, settings: Settings) -> Self {
        Self { _client: client, _settings: settings }
    }

    /// One attempt at all image volumes of `pod`: pulls what its policy says, with the Pod's Secrets, emits the kubelet's
    /// events and writes progress to the Pod. Cancel safe.
    ///
    /// # Errors
    /// [`Waiting`], for the Pod's status; the caller tries again after `retry_after`.
    pub async fn lay_out(&self, _pod: &Pod) -> Result<Vec<LaidOut>, Waiting> {
        std::future::pending().await
    }

    /// Takes hold of the files of volumes that an earlier daemon laid out, for a Pod that is adopted.
    ///
    /// # Errors
    /// When the store lost them; the guest has them open still.
    pub async fn keep(
        &self,
        _volume: &launcher::pod_dir::ImageVolume,
    ) -> Result<image::store::Lease, image::StoreError> {
        std::future::pending().await
    }

    /// Removes images that nobody uses when the disk fills up, until dropped.
    pub async fn collect_garbage(&self) {
        std::future::pending().await
    }
}
