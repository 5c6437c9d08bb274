//! What `/metrics` tells of machines, under KubeVirt's names: from the objects as they are at the moment of a scrape, and
//! from what the kernel has counted of their processes.
//!
//! Nothing is kept of a machine between scrapes but what nothing else knows, and that not for longer than it is there, so
//! one that is gone leaves no series behind.

mod connections;
mod created;
mod families;
mod objects;

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use apiserver::server::Objects;
use jiff::Timestamp;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use serde::de::{DeserializeOwned, Error as _};

pub use connections::{Connection, Connections, Stream};
pub use created::Created;
use families::Families;
pub(super) use objects::Metadata;

/// Tells of all machines.
#[derive(Debug)]
pub struct Machines {
    /// Set when the server has been started.
    pub objects: Arc<OnceLock<Objects>>,
    /// The node's Pods; none where there is no node.
    pub pods_dir: Option<PathBuf>,
    /// Who is connected to guests.
    pub connections: Connections,
    /// How many machines have been created.
    pub created: Created,
}

impl Collector for Machines {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Some(all) = self.objects.get() else { return Ok(()) };
        let mut families = Families::default();
        let began = Timestamp::now();
        objects::version(&mut families);
        self.created.tell(&mut families);
        for machine in read(all, "kubevirt.io", "virtualmachines") {
            objects::machine(&machine, &mut families);
        }
        let pods: Vec<objects::Pod> = read(all, "", "pods").collect();
        let pods = objects::running_pods(&pods);
        let mut instances = objects::Instances::default();
        for instance in read(all, "kubevirt.io", "virtualmachineinstances") {
            objects::instance(&instance, &pods, &mut instances, &mut families);
        }
        self.connections.tell(|instance| instances.created(instance), began, &mut families);
        match self.pods_dir.as_deref().map(node::usage::machines).transpose() {
            // Where there is no node nothing runs.
            Ok(used) => objects::usage(&instances, used.unwrap_or_default(), &mut families),
            Err(error) => tracing::warn!(%error, "what machines use cannot be told"),
        }
        families.encode(encoder)
    }
}

/// The objects of a kind, as far as they are looked at here. What does not read is left out: it tells nothing.
pub(super) fn read<T: DeserializeOwned>(
    objects: &Objects,
    group: &str,
    plural: &str,
) -> impl Iterator<Item = T> {
    objects.all(group, plural).into_iter().filter_map(|json| {
        // From text, as clients of the API read objects: each form of input has code of its own for every type.
        let object = str::from_utf8(&json).map_err(serde_json::Error::custom).and_then(serde_json::from_str);
        object.inspect_err(|error| tracing::debug!(%error, "an object is left out of the metrics")).ok()
    })
}
