//! The gateway: a TCP/IP stack in this process, which gives the guest its address and connects to its ports.
//!
//! One task owns all of it. It wakes for a frame, a new connection, bytes on a connection's stream, or the clock of TCP,
//! and then lets smoltcp do what there is to do.
//!
//! What it holds is bounded: [`MOST_CONNECTIONS`], datagrams of a port counted as one, with [`BUFFER_BYTES`] each way, and
//! frames that are handed on before more are made.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Checksum, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::{tcp, udp};
use smoltcp::wire::{EthernetAddress, IpAddress, IpCidr, IpEndpoint, Ipv4Address};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf, duplex};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};
use vmm::CardModel;

use super::dhcp::{self, Lease};
use super::frame::Frame;
use super::traffic::Counters;
use super::{Datagrams, DialError, GATEWAY, GATEWAY_MAC, GUEST, NAME_SERVER, Network, PREFIX_LENGTH, Wire};

/// Connections to the guest at a time.
pub const MOST_CONNECTIONS: usize = 128;

/// How long the guest may take to accept a connection. A busy one answers later than it should; Go's dialers, KubeVirt's
/// among them, wait for at least as long.
pub const DIAL_LIMIT: Duration = Duration::from_secs(10);

/// What a connection holds each way, in bytes: a few of the largest segments.
const BUFFER_BYTES: usize = 256 << 10;

/// How long the guest may leave what was sent to it unacknowledged; it may stand still for a while.
const SILENCE_LIMIT: smoltcp::time::Duration = smoltcp::time::Duration::from_secs(300);

/// Frames that are taken at a time before anything is sent.
const BATCH: usize = 32;

/// Longest IP packets, in bytes: of a virtio card what passt gives (65535 less an Ethernet header, in whole words), of
/// others what Ethernet has.
const LONG_MTU: u16 = 65_520;
const ETHERNET_MTU: u16 = 1500;

const ETHERNET_HEADER_BYTES: usize = 14;

/// In front of a datagram in a packet: IPv4's (RFC 791) and UDP's (RFC 768). smoltcp does not cut a packet into fragments,
/// nor put them together.
const DATAGRAM_HEADERS_BYTES: usize = 20 + 8;

/// Ports of the gateway's own ends of connections: the dynamic ones of RFC 6335.
const LOCAL_PORTS: std::ops::RangeInclusive<u16> = 49152..=65535;

const DHCP_SERVER_PORT: u16 = 67;
const DHCP_CLIENT_PORT: u16 = 68;

/// Bytes and messages of DHCP that may wait.
const DHCP_QUEUE: (usize, usize) = (8, 8 << 10);

/// Datagrams to one port that wait: [`BUFFER_BYTES`] has room for as many of the longest, nearly.
const DATAGRAMS: usize = 4;

/// Datagrams from one port that wait. A server sends some at a time, as many as nine or ten of QUIC (RFC 9002, 7.2), and
/// cannot be held up.
const ANSWERS: usize = 16;

/// A way to a port of the guest that somebody wants.
#[derive(Debug)]
pub enum Dial {
    /// A connection.
    Connection {
        /// The guest's port.
        port: u16,
        /// Told once the guest has taken or refused it.
        reply: oneshot::Sender<Result<DuplexStream, DialError>>,
    },
    /// Datagrams.
    Datagrams {
        /// The guest's port.
        port: u16,
        /// Told at once.
        reply: oneshot::Sender<Result<Datagrams, DialError>>,
    },
}

/// The stack.
pub struct Stack {
    began: Instant,
    interface: Interface,
    queue: Queue,
    sockets: SocketSet<'static>,
    dhcp: SocketHandle,
    lease: Lease,
    /// Whether the guest has asked for its address.
    has_lease: watch::Sender<bool>,
    connections: Vec<Connection>,
    exchanges: Vec<Exchange>,
    next_port: u16,
    counters: Arc<Counters>,
}

/// Datagrams to and from a port of the guest.
struct Exchange {
    socket: SocketHandle,
    port: u16,
    local: u16,
    to_guest: mpsc::Receiver<Frame>,
    from_guest: mpsc::Sender<Frame>,
    /// Longest datagram that the guest's card takes.
    longest_bytes: usize,
    counters: Arc<Counters>,
    /// Whether nobody sends any more.
    is_over: bool,
}

/// A connection to the guest, and its other end.
struct Connection {
    socket: SocketHandle,
    port: u16,
    /// Until the guest has answered.
    asked: Option<Asked>,
    stream: DuplexStream,
    /// Whether the stream knows that the guest says no more.
    is_told_the_end: bool,
}

/// Who wants a connection that the guest has not answered yet.
struct Asked {
    reply: oneshot::Sender<Result<DuplexStream, DialError>>,
    /// What they get.
    stream: DuplexStream,
    until: Instant,
}

impl Stack {
    /// The stack of `network`; `is_outside_open` says whether names can be asked for.
    pub fn new(network: &Network, is_outside_open: bool, counters: Arc<Counters>) -> Self {
        let mtu = match network.card.model {
            CardModel::Virtio => LONG_MTU,
            _ => ETHERNET_MTU,
        };
        let mut queue = Queue { mtu, inward: VecDeque::new(), outward: VecDeque::new() };
        let config = Config::new(EthernetAddress(GATEWAY_MAC).into());
        let mut interface = Interface::new(config, &mut queue, smoltcp::time::Instant::ZERO);
        interface.update_ip_addrs(|addresses| {
            // There is room for more than one.
            let _ = addresses.push(IpCidr::new(GATEWAY.into(), PREFIX_LENGTH));
        });
        let mut sockets = SocketSet::new(Vec::new());
        let (messages, bytes) = DHCP_QUEUE;
        let mut dhcp = udp_socket(messages, bytes);
        // It fails for port 0 and for an open socket only.
        let _ = dhcp.bind(DHCP_SERVER_PORT);
        Self {
            began: Instant::now(),
            interface,
            queue,
            dhcp: sockets.add(dhcp),
            sockets,
            lease: Lease {
                mac: network.card.mac,
                host_name: network.host_name.clone(),
                mtu,
                name_server: is_outside_open.then_some(NAME_SERVER),
            },
            has_lease: watch::Sender::new(false),
            connections: Vec::new(),
            exchanges: Vec::new(),
            next_port: *LOCAL_PORTS.start(),
            counters,
        }
    }

    /// Whether the guest has asked for its address, from now on.
    pub fn has_lease(&self) -> watch::Receiver<bool> {
        self.has_lease.subscribe()
    }

    /// Runs until no more frames can come or go.
    pub async fn run(
        mut self,
        mut frames: mpsc::Receiver<Frame>,
        mut dials: mpsc::Receiver<Dial>,
        wire: Wire,
    ) {
        loop {
            let wake = self.poll();
            while let Some(frame) = self.queue.outward.pop_front() {
                if let Err(error) = wire.send(&frame).await {
                    tracing::debug!(%error, "the guest's network takes no more");
                    return;
                }
            }
            tokio::select! {
                frame = frames.recv() => {
                    let Some(frame) = frame else { return };
                    self.queue.inward.push_back(frame);
                    while self.queue.inward.len() < BATCH && let Ok(frame) = frames.try_recv() {
                        self.queue.inward.push_back(frame);
                    }
                }
                Some(dial) = dials.recv() => self.dial(dial),
                () = std::future::poll_fn(|context| self.carry(context)) => {}
                () = sleep_until(wake) => {}
            }
        }
    }

    fn clock(&self) -> smoltcp::time::Instant {
        // Not before some hundred thousand years.
        let micros = i64::try_from(self.began.elapsed().as_micros()).unwrap_or(i64::MAX);
        smoltcp::time::Instant::from_micros(micros)
    }

    /// Does what there is to do; comes back with the time to do so again when nothing happens.
    fn poll(&mut self) -> Instant {
        let clock = self.clock();
        self.interface.poll(clock, &mut self.queue, &mut self.sockets);
        if self.answer_dhcp() {
            self.interface.poll(clock, &mut self.queue, &mut self.sockets);
        }
        let now = Instant::now();
        let sockets = &mut self.sockets;
        self.connections.retain_mut(|connection| {
            let goes_on = connection.settle(sockets.get_mut(connection.socket), now);
            if !goes_on {
                sockets.remove(connection.socket);
            }
            goes_on
        });
        self.exchanges.retain_mut(|exchange| {
            exchange.listen(sockets.get_mut(exchange.socket));
            if exchange.is_over {
                sockets.remove(exchange.socket);
            }
            !exchange.is_over
        });
        let own = self.interface.poll_delay(clock, &self.sockets).map_or(DIAL_LIMIT, Into::into);
        let dials = self.connections.iter().filter_map(|connection| Some(connection.asked.as_ref()?.until));
        dials.fold(now + own, Instant::min)
    }

    /// Whether there was anything to answer.
    fn answer_dhcp(&mut self) -> bool {
        let socket = self.sockets.get_mut::<udp::Socket>(self.dhcp);
        let mut answers = Vec::new();
        while let Ok((message, _)) = socket.recv() {
            answers.extend(dhcp::answer(message, &self.lease));
        }
        let client = IpEndpoint::new(IpAddress::Ipv4(Ipv4Address::BROADCAST), DHCP_CLIENT_PORT);
        for answer in &answers {
            if dhcp::is_lease(answer) {
                self.has_lease.send_if_modified(|has_lease| !std::mem::replace(has_lease, true));
            }
            if let Err(error) = socket.send_slice(answer, client) {
                // The client asks again.
                tracing::debug!(%error, "an answer of DHCP is dropped");
            }
        }
        !answers.is_empty()
    }

    fn dial(&mut self, dial: Dial) {
        let is_full = self.connections.len() + self.exchanges.len() >= MOST_CONNECTIONS;
        // Who asked may not wait any more, here and below.
        match dial {
            Dial::Connection { reply, .. } if is_full => drop(reply.send(Err(DialError::TooMany))),
            Dial::Datagrams { reply, .. } if is_full => drop(reply.send(Err(DialError::TooMany))),
            Dial::Connection { port, reply } => self.connect(port, reply),
            Dial::Datagrams { port: 0, reply } => drop(reply.send(Err(DialError::Refused { port: 0 }))),
            Dial::Datagrams { port, reply } => {
                let datagrams = self.exchange(port);
                let _ = reply.send(Ok(datagrams));
            }
        }
    }

    fn exchange(&mut self, port: u16) -> Datagrams {
        let local = self.local_port();
        let mut socket = udp_socket(BATCH, BUFFER_BYTES);
        // It fails for port 0 and for an open socket only.
        let _ = socket.bind(local);
        let (to_guest, asked) = mpsc::channel(DATAGRAMS);
        let (answers, from_guest) = mpsc::channel(ANSWERS);
        self.exchanges.push(Exchange {
            socket: self.sockets.add(socket),
            port,
            local,
            to_guest: asked,
            from_guest: answers,
            longest_bytes: usize::from(self.queue.mtu) - DATAGRAM_HEADERS_BYTES,
            counters: Arc::clone(&self.counters),
            is_over: false,
        });
        Datagrams { to_guest, from_guest }
    }

    fn connect(&mut self, port: u16, reply: oneshot::Sender<Result<DuplexStream, DialError>>) {
        let buffer = || tcp::SocketBuffer::new(vec![0; BUFFER_BYTES]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        socket.set_nagle_enabled(false);
        socket.set_timeout(Some(SILENCE_LIMIT));
        let local = self.local_port();
        if socket.connect(self.interface.context(), (GUEST, port), local).is_err() {
            // Port 0, which nobody listens on.
            let _ = reply.send(Err(DialError::Refused { port }));
            return;
        }
        let (stream, theirs) = duplex(BUFFER_BYTES);
        let asked = Asked { reply, stream: theirs, until: Instant::now() + DIAL_LIMIT };
        self.connections.push(Connection {
            socket: self.sockets.add(socket),
            port,
            asked: Some(asked),
            stream,
            is_told_the_end: false,
        });
    }

    /// One that no connection has: there are more of them than connections.
    fn local_port(&mut self) -> u16 {
        loop {
            let port = self.next_port;
            self.next_port = if port == *LOCAL_PORTS.end() { *LOCAL_PORTS.start() } else { port + 1 };
            let mut taken = self.connections.iter().filter_map(|connection| {
                Some(self.sockets.get::<tcp::Socket>(connection.socket).local_endpoint()?.port)
            });
            let is_exchanges = self.exchanges.iter().any(|exchange| exchange.local == port);
            if !is_exchanges && taken.all(|taken| taken != port) {
                return port;
            }
        }
    }

    /// Moves bytes between sockets and streams; ready when any has moved.
    fn carry(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let mut has_moved = false;
        for connection in &mut self.connections {
            let socket = self.sockets.get_mut(connection.socket);
            has_moved |= connection.carry(socket, context);
        }
        for exchange in &mut self.exchanges {
            has_moved |= exchange.carry(self.sockets.get_mut(exchange.socket), context);
        }
        if has_moved { Poll::Ready(()) } else { Poll::Pending }
    }
}

/// A socket with room for this much, each way.
fn udp_socket(messages: usize, bytes: usize) -> udp::Socket<'static> {
    let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; messages], vec![0; bytes]);
    udp::Socket::new(buffer(), buffer())
}

impl Exchange {
    /// Sends what the guest is to get; whether anything has changed.
    fn carry(&mut self, socket: &mut udp::Socket<'_>, context: &mut Context<'_>) -> bool {
        let mut has_changed = false;
        while socket.can_send() && !self.is_over {
            match self.to_guest.poll_recv(context) {
                Poll::Ready(Some(datagram)) if datagram.bytes().len() > self.longest_bytes => {
                    self.counters.drop_received();
                    tracing::debug!(port = self.port, "a datagram to the guest is too long for its card");
                }
                Poll::Ready(Some(datagram)) => {
                    if let Err(error) = socket.send_slice(datagram.bytes(), (GUEST, self.port)) {
                        tracing::debug!(%error, port = self.port, "a datagram to the guest is lost");
                    }
                }
                Poll::Ready(None) => self.is_over = true,
                Poll::Pending => return has_changed,
            }
            has_changed = true;
        }
        has_changed
    }

    /// Hands on what the guest has answered.
    fn listen(&mut self, socket: &mut udp::Socket<'_>) {
        while let Ok((bytes, from)) = socket.recv() {
            if from.endpoint != IpEndpoint::new(GUEST.into(), self.port)
                || self.from_guest.try_send(Frame::of(bytes)).is_err()
            {
                self.counters.drop_transmitted();
                tracing::debug!(port = self.port, "a datagram of the guest is lost");
            }
        }
    }
}

impl Connection {
    /// Answers who dialled, once there is an answer; `false` when the connection is over.
    fn settle(&mut self, socket: &mut tcp::Socket<'_>, now: Instant) -> bool {
        if let Some(Asked { reply, stream, until }) = self.asked.take() {
            let port = self.port;
            match socket.state() {
                // Who asked may not wait any more: then the stream is at its end at once.
                tcp::State::Closed => drop(reply.send(Err(DialError::Refused { port }))),
                tcp::State::SynSent if reply.is_closed() => socket.abort(),
                tcp::State::SynSent if now >= until => {
                    drop(reply.send(Err(DialError::Silent { port })));
                    socket.abort();
                }
                tcp::State::SynSent => self.asked = Some(Asked { reply, stream, until }),
                _ => drop(reply.send(Ok(stream))),
            }
        }
        // A socket that was aborted still has its farewell to send, and is closed at the next look. One that only waits
        // for the guest's stray segments is not needed: its port is not used again soon.
        !matches!(socket.state(), tcp::State::Closed | tcp::State::TimeWait)
            || (!self.is_told_the_end && socket.can_recv())
    }

    /// Moves bytes; whether any has moved.
    fn carry(&mut self, socket: &mut tcp::Socket<'_>, context: &mut Context<'_>) -> bool {
        if self.asked.is_some() {
            return false;
        }
        let mut has_moved = false;
        let stream = &mut self.stream;
        while socket.can_recv() {
            let written = socket.recv(|bytes| match Pin::new(&mut *stream).poll_write(context, bytes) {
                Poll::Ready(Ok(length)) => (length, Ok(length > 0)),
                Poll::Ready(Err(error)) => (0, Err(error)),
                Poll::Pending => (0, Ok(false)),
            });
            match written {
                Ok(Ok(true)) => has_moved = true,
                Ok(Ok(false)) => break,
                // Nobody wants what the guest says.
                Ok(Err(_)) | Err(_) => {
                    socket.abort();
                    return true;
                }
            }
        }
        if !socket.may_recv() && !socket.can_recv() && !self.is_told_the_end {
            // A stream of this kind has nothing to flush, and is closed at once.
            let _ = Pin::new(&mut *stream).poll_shutdown(context);
            self.is_told_the_end = true;
            has_moved = true;
        }
        while socket.can_send() {
            let read = socket.send(|space| {
                let mut buffer = ReadBuf::new(space);
                match Pin::new(&mut *stream).poll_read(context, &mut buffer) {
                    Poll::Ready(Ok(())) => (buffer.filled().len(), Some(buffer.filled().len())),
                    // It does not fail.
                    Poll::Ready(Err(_)) => (0, Some(0)),
                    Poll::Pending => (0, None),
                }
            });
            match read {
                Ok(Some(0)) | Err(_) => {
                    socket.close();
                    return true;
                }
                Ok(Some(_)) => has_moved = true,
                Ok(None) => break,
            }
        }
        has_moved
    }
}

/// The wire as smoltcp sees it.
struct Queue {
    mtu: u16,
    inward: VecDeque<Frame>,
    outward: VecDeque<Frame>,
}

/// A frame that has come.
struct Come(Frame);

impl RxToken for Come {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, take: F) -> R {
        take(self.0.bytes())
    }
}

/// Room for a frame that goes.
struct Going<'a>(&'a mut VecDeque<Frame>);

impl TxToken for Going<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, fill: F) -> R {
        let mut frame = Frame::zeroed(length);
        let result = fill(frame.bytes_mut());
        self.0.push_back(frame);
        result
    }
}

/// Frames that may be made before they are handed on.
const MOST_OUTWARD: usize = 64;

impl Device for Queue {
    type RxToken<'a> = Come;
    type TxToken<'a> = Going<'a>;

    fn receive(&mut self, _: smoltcp::time::Instant) -> Option<(Come, Going<'_>)> {
        Some((Come(self.inward.pop_front()?), Going(&mut self.outward)))
    }

    fn transmit(&mut self, _: smoltcp::time::Instant) -> Option<Going<'_>> {
        (self.outward.len() < MOST_OUTWARD).then_some(Going(&mut self.outward))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = usize::from(self.mtu) + ETHERNET_HEADER_BYTES;
        // A socket of this host changes nothing on the way; the guest still looks at what comes to it.
        capabilities.checksum.tcp = Checksum::Tx;
        capabilities
    }
}
