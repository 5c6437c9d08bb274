//! The default pod network of one guest, without any privilege.
//!
//! ```text
//!                        ┌─ way::of ─► Inside  ─► stack (our own TCP/IP): the gateway. DHCP, and connections to the guest
//!  QEMU ◄──wire──► relay ┤
//!   one network card     ├──────────► Outside ─► passt, or QEMU's user network ─► the host's network
//!                        └──────────► Nowhere    loopback and everything else that is not IPv4 to one station
//! ```
//!
//! | address | is |
//! |---|---|
//! | 10.0.2.1 | the gateway: this process |
//! | 10.0.2.2 | the guest, by DHCP |
//! | 10.0.2.3 | the host's name servers, by way of who is outside |
//! | 10.0.2.4 | the host's own loopback 127.0.0.1, only where the manifest asks for it ([`HOST_LOOPBACK`](manifest::keys::HOST_LOOPBACK)) |
//!
//! These are KubeVirt's addresses behind `masquerade`. With `bridge` they are the same, since the Pod's own address is one
//! of the host's loopback, which no guest could have.
//!
//! The way into the guest is a TCP/IP stack of our own rather than ports of the host that passt or QEMU would listen on:
//! nobody else on the host can use it, any port can be reached at any time, and whether the guest takes a connection is
//! known before somebody is told that it has. Ports that the manifest allows are open at the Pod's address as well, to
//! everybody on the host ([`PodPorts`]), and lead through the same stack. The way out is another program's, passt's where
//! that is installed and QEMU's otherwise ([`Outside`]), started with the first frame that goes there.
//!
//! # Guarantees
//! - Frames to an address of the host's loopback go nowhere, nor do those that a program outside would take for such; what
//!   those are is in the module `way`.
//! - Everything ends with the wire, which ends with QEMU, also when this process is killed.

mod dhcp;
mod frame;
mod outside;
mod plan;
mod pod_datagrams;
mod pod_ports;
mod stack;
mod traffic;
mod way;

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::io::{AsyncWriteExt, BufReader, DuplexStream};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Mutex, mpsc, oneshot, watch};

pub use outside::{Outside, Runner};
pub use plan::{HostLoopback, Network, Ports, Protocol, network};
pub use pod_ports::{PodPorts, is_redirected};
pub use traffic::{Lost, Traffic};

pub use frame::Frame;
use stack::{Dial, Stack};
use traffic::Counters;
use way::Way;

pub use stack::DIAL_LIMIT;

/// The network of every guest, KubeVirt's behind `masquerade`.
const NETWORK: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 0);

/// Bits of its prefix.
const PREFIX_LENGTH: u8 = 24;

/// The gateway.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 1);

/// The guest.
pub const GUEST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);

/// Where the guest asks for names.
const NAME_SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 3);

/// The host's loopback, where that is open.
const HOST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 4);

/// The gateway's hardware address, and passt's: it is the same station to the guest. What comes from QEMU's user network has
/// another one (52:55 and an address of the network), which makes no difference to a guest.
const GATEWAY_MAC: [u8; 6] = [0x52, 0x55, 10, 0, 2, 1];

/// Frames on their way to the stack.
const QUEUE: usize = 64;

/// Bytes that are read of a wire at a time: two of the largest frames.
const WIRE_BUFFER_BYTES: usize = 128 << 10;

/// Bytes of a connection to the guest that are carried at a time.
pub(crate) const PIECE_BYTES: usize = 64 << 10;

/// Why there is no connection to the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DialError {
    /// The manifest does not name the port.
    #[error("port {port} is not among the `ports` of the guest's interface")]
    Closed {
        /// The port.
        port: u16,
    },
    /// The guest has nobody there.
    #[error("the guest refuses connections to port {port}")]
    Refused {
        /// The port.
        port: u16,
    },
    /// The guest says nothing: it has no network yet, or drops what is for the port.
    #[error("the guest does not answer on port {port} within {} seconds", stack::DIAL_LIMIT.as_secs())]
    Silent {
        /// The port.
        port: u16,
    },
    /// Too many connections are open.
    #[error("{} connections to the guest are open", stack::MOST_CONNECTIONS)]
    TooMany,
    /// The machine has ended.
    #[error("the guest's network has ended")]
    Ended,
}

/// Datagrams to and from a UDP port of the guest, each a [`Frame`]. Whatever there is no room for is lost, as on any
/// network; it ends when `to_guest` is dropped.
#[derive(Debug)]
pub struct Datagrams {
    /// What the guest is sent.
    pub to_guest: mpsc::Sender<Frame>,
    /// What it answers.
    pub from_guest: mpsc::Receiver<Frame>,
}

/// The way to a guest. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Door {
    ports: Arc<Ports>,
    dials: mpsc::Sender<Dial>,
    has_lease: watch::Receiver<bool>,
    counters: Arc<Counters>,
}

impl Door {
    /// Comes back once the guest has asked for its address, [`GUEST`]; never in a guest that does not.
    pub(crate) async fn leased(mut self) {
        if self.has_lease.wait_for(|has_lease| *has_lease).await.is_err() {
            // The machine has ended.
            std::future::pending::<()>().await;
        }
    }

    /// Keeps the file at `path` up to date with what the guest sends and receives, a [`Traffic`], until the machine has
    /// ended.
    pub(crate) async fn tell_traffic(self, path: PathBuf) {
        tokio::select! {
            () = self.closed() => {}
            () = self.counters.tell(&path) => {}
        }
    }

    /// Comes back once the machine has ended.
    async fn closed(&self) {
        self.dials.closed().await;
    }

    /// Connects to a TCP port of the guest.
    ///
    /// # Errors
    /// [`DialError`].
    pub async fn connect(&self, port: u16) -> Result<DuplexStream, DialError> {
        self.dial(Protocol::Tcp, port, |reply| Dial::Connection { port, reply }).await
    }

    /// Opens a way to a UDP port of the guest. Whether there is anybody shows when it answers.
    ///
    /// # Errors
    /// [`DialError`].
    pub async fn datagrams(&self, port: u16) -> Result<Datagrams, DialError> {
        self.dial(Protocol::Udp, port, |reply| Dial::Datagrams { port, reply }).await
    }

    async fn dial<T>(
        &self,
        protocol: Protocol,
        port: u16,
        make: impl FnOnce(oneshot::Sender<Result<T, DialError>>) -> Dial,
    ) -> Result<T, DialError> {
        if !self.ports.allow(protocol, port) {
            return Err(DialError::Closed { port });
        }
        let (reply, answer) = oneshot::channel();
        self.dials.send(make(reply)).await.map_err(|_| DialError::Ended)?;
        answer.await.map_err(|_| DialError::Ended)?
    }
}

#[cfg(test)]
impl Door {
    /// A way to a guest that `connect` stands for.
    pub(crate) fn to(
        ports: Ports,
        mut connect: impl FnMut(u16) -> Result<DuplexStream, DialError> + Send + 'static,
    ) -> Self {
        let (dials, mut asked) = mpsc::channel::<Dial>(QUEUE);
        tokio::spawn(async move {
            // Nobody asks it for datagrams.
            while let Some(Dial::Connection { port, reply }) = asked.recv().await {
                // Who asked may not wait any more.
                let _ = reply.send(connect(port));
            }
        });
        Self { ports: Arc::new(ports), dials, has_lease: watch::channel(true).1, counters: Arc::default() }
    }
}

/// Serves the network of a guest whose card is at the other end of `wire`, in tasks that end with it.
pub fn serve(wire: UnixStream, network: Network, outside: Outside) -> Door {
    let (from_guest, to_guest) = wire.into_split();
    let counters = Arc::new(Counters::new(&network.interface));
    let to_guest = Wire { guest: Arc::new(Mutex::new(to_guest)), counters: Arc::clone(&counters) };
    let (frames, inside) = mpsc::channel(QUEUE);
    let (dials, asked) = mpsc::channel(QUEUE);
    let stack = Stack::new(&network, outside.is_open(), Arc::clone(&counters));
    let has_lease = stack.has_lease();
    tokio::spawn(stack.run(inside, asked, to_guest.clone()));
    tokio::spawn(relay(from_guest, frames, outside, network.host_loopback, to_guest));
    Door { ports: Arc::new(network.ports), dials, has_lease, counters }
}

/// Hands on what the guest sends.
async fn relay(
    wire: OwnedReadHalf,
    inside: mpsc::Sender<Frame>,
    mut outside: Outside,
    host_loopback: HostLoopback,
    to_guest: Wire,
) {
    let mut wire = BufReader::with_capacity(WIRE_BUFFER_BYTES, wire);
    let mut frame = Frame::default();
    loop {
        match frame.read(&mut wire).await {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => {
                tracing::warn!(%error, "the guest's network has ended");
                return;
            }
        }
        to_guest.counters.transmit(frame.bytes().len());
        match way::of(frame.bytes(), host_loopback) {
            Way::Inside => {
                if inside.send(std::mem::take(&mut frame)).await.is_err() {
                    return;
                }
            }
            Way::Outside => outside.send(&frame, &to_guest).await,
            Way::Nowhere => to_guest.counters.drop_transmitted(),
        }
    }
}

/// The way of frames to the guest, which more than one has something for.
#[derive(Debug, Clone)]
struct Wire {
    guest: Arc<Mutex<OwnedWriteHalf>>,
    counters: Arc<Counters>,
}

impl Wire {
    async fn send(&self, frame: &Frame) -> std::io::Result<()> {
        self.guest.lock().await.write_all(frame.on_the_wire()).await?;
        self.counters.receive(frame.bytes().len());
        Ok(())
    }
}
