//! UDP ports of the Pod's address: what comes to one goes to the guest's, and its answers go back to who has sent there.
//!
//! Listed ports have a socket each. Where the host hands what comes to any port to one socket, [`redirected`], the kernel
//! tells with each datagram which was wanted; an answer leaves by a socket of that port, which is there as long as the
//! port has flows.
//!
//! A sender and a port of the guest are a flow, with a port of the gateway's own, by which the guest's answers are told
//! apart ([`Door::datagrams`]).
//!
//! # Guarantees
//! - A guest sends nothing to the host by this but answers: from the port that was sent to, to who has sent there, until
//!   that one has been still for [`STILL_LIMIT`]. What the guest says keeps no flow open.
//! - There are at most [`MOST_FLOWS`]. One more takes the place of the one whose sender has been still for the longest.
//! - Datagrams wait in the kernel for a guest that is slow; those that there is no room for are lost, as on any network.
//!
//! # Caveats
//! Nobody is told that a sender has closed its port. Who opens the same one within [`STILL_LIMIT`] and takes datagrams of
//! everybody may get an answer to the sender before it.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, SocketAddrV4};
use std::os::fd::AsRawFd as _;
use std::sync::{Arc, Weak};
use std::time::Duration;

use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrIn, recvmsg, setsockopt, sockopt};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::sync::{Mutex, mpsc};
use tokio::time::{Instant, sleep, sleep_until};

use super::frame::Frame;
use super::stack::MOST_CONNECTIONS;
use super::{Datagrams, Door};

/// Flows at a time, of all ports: a quarter of what the guest may have.
const MOST_FLOWS: usize = MOST_CONNECTIONS / 4;

/// How long a flow stays without a datagram of its sender: the shortest time that RFC 4787 allows a NAT (REQ-5). That what
/// comes from the other side does not count is allowed there too (REQ-6).
const STILL_LIMIT: Duration = Duration::from_secs(120);

/// Longest datagram, in bytes: of UDP over IPv4 (RFC 768, RFC 791).
const LONGEST_BYTES: usize = 65_535 - 20 - 8;

/// How long nothing is received after something could not be.
const PAUSE: Duration = Duration::from_millis(200);

/// Listens at `address`. A port is not shared: whoever else had it could take the guest's datagrams.
///
/// # Errors
/// What the kernel says.
pub(super) fn listen(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = std::net::UdpSocket::bind(address)?;
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket)
}

/// Listens at `address` for what the host redirects there. It takes `CAP_NET_RAW`, or `CAP_NET_ADMIN`.
///
/// A rule of the firewall hands datagrams to a socket without changing where they go to, but only to one that says that it
/// is transparent (ip(7): `IP_TRANSPARENT`, `IP_RECVORIGDSTADDR`; the kernel's Documentation/networking/tproxy.rst).
///
/// # Errors
/// What the kernel says.
pub(super) fn redirected(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = listen(address)?;
    setsockopt(&socket, sockopt::IpTransparent, &true)?;
    setsockopt(&socket, sockopt::Ipv4OrigDstAddr, &true)?;
    Ok(socket)
}

/// Sends on what comes to the sockets, to the same ports of the guest behind `door`, in tasks that end with it. What comes
/// to `redirected` may be for any port of its address.
pub(super) fn serve(redirected: Option<UdpSocket>, listed: Vec<UdpSocket>, door: &Door) {
    let flows = Arc::new(Mutex::new(Flows::default()));
    let listed: Vec<_> = listed.into_iter().map(Arc::new).collect();
    let exits = Exits(
        // One without an address has no port to answer from.
        listed.iter().filter_map(|socket| Some((port(socket).ok()?, Arc::downgrade(socket)))).collect(),
    );
    let redirected = redirected.map(|socket| Inlet::Redirected(socket, exits));
    for mut inlet in listed.into_iter().map(Inlet::Listed).chain(redirected) {
        let (door, flows) = (door.clone(), Arc::clone(&flows));
        tokio::spawn(async move {
            tokio::select! {
                () = door.closed() => {}
                () = receive(&mut inlet, &door, &flows) => {}
            }
        });
    }
}

fn port(socket: &UdpSocket) -> io::Result<u16> {
    socket.local_addr().map(|address| address.port())
}

/// Where datagrams come in.
#[derive(Debug)]
enum Inlet {
    /// At one port.
    Listed(Arc<UdpSocket>),
    /// At any of an address.
    Redirected(UdpSocket, Exits),
}

impl Inlet {
    /// The next datagram: its length, and its flow.
    async fn receive(&self, buffer: &mut [u8]) -> io::Result<(usize, Flow)> {
        match self {
            Self::Listed(socket) => {
                let (length, sender) = socket.recv_from(buffer).await?;
                Ok((length, Flow { sender, port: port(socket)? }))
            }
            Self::Redirected(socket, _) => {
                socket.async_io(Interest::READABLE, || receive_redirected(socket, buffer)).await
            }
        }
    }

    /// Where answers from `wanted` go out.
    fn exit(&mut self, wanted: u16) -> io::Result<Arc<UdpSocket>> {
        match self {
            Self::Listed(socket) => Ok(Arc::clone(socket)),
            Self::Redirected(socket, exits) => exits.of(socket, wanted),
        }
    }
}

/// The sockets that answers leave by, by port. Who uses one keeps it.
#[derive(Debug, Default)]
struct Exits(HashMap<u16, Weak<UdpSocket>>);

impl Exits {
    /// The one of `wanted`, at the address of `redirected`.
    fn of(&mut self, redirected: &UdpSocket, wanted: u16) -> io::Result<Arc<UdpSocket>> {
        if let Some(socket) = self.0.get(&wanted).and_then(Weak::upgrade) {
            return Ok(socket);
        }
        self.0.retain(|_, socket| socket.strong_count() > 0);
        // Nothing comes in by it while the host redirects.
        let socket = Arc::new(listen((redirected.local_addr()?.ip(), wanted).into())?);
        self.0.insert(wanted, Arc::downgrade(&socket));
        Ok(socket)
    }
}

/// A datagram that may be for another port than the socket's.
fn receive_redirected(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<(usize, Flow)> {
    let mut told = nix::cmsg_space!(nix::libc::sockaddr_in);
    let mut buffers = [io::IoSliceMut::new(buffer)];
    let received =
        recvmsg::<SockaddrIn>(socket.as_raw_fd(), &mut buffers, Some(&mut told), MsgFlags::empty())?;
    let wanted = received.cmsgs()?.find_map(|message| match message {
        ControlMessageOwned::Ipv4OrigDstAddr(address) => Some(u16::from_be(address.sin_port)),
        _ => None,
    });
    let (Some(sender), Some(port)) = (received.address, wanted) else {
        return Err(io::Error::other("a datagram does not say where it comes from or goes to"));
    };
    Ok((received.bytes, Flow { sender: SocketAddrV4::from(sender).into(), port }))
}

/// A sender, and the port of the guest that it sends to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Flow {
    sender: SocketAddr,
    port: u16,
}

/// The flows that there are: when the sender of each was last heard, and its way to the guest, with which it ends.
#[derive(Debug)]
struct Flows<W>(HashMap<Flow, (Instant, W)>);

impl<W> Default for Flows<W> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<W: Clone> Flows<W> {
    /// The way of a flow whose sender is heard `now`.
    fn way(&mut self, flow: Flow, now: Instant) -> Option<W> {
        self.close_still(now);
        let (heard, way) = self.0.get_mut(&flow)?;
        *heard = now;
        Some(way.clone())
    }

    /// A flow whose sender is heard for the first time `now`. There may be one fewer of the others then.
    fn open(&mut self, flow: Flow, way: W, now: Instant) {
        if self.0.len() == MOST_FLOWS
            && let Some(stillest) = self.0.iter().min_by_key(|(_, (heard, _))| *heard).map(|(flow, _)| *flow)
        {
            self.0.remove(&stillest);
        }
        self.0.insert(flow, (now, way));
    }

    /// When a flow ends unless its sender is heard; `None` when it has.
    fn end(&self, flow: Flow) -> Option<Instant> {
        self.0.get(&flow).map(|(heard, _)| *heard + STILL_LIMIT)
    }

    /// Ends the flows whose senders have been still for too long by `now`.
    fn close_still(&mut self, now: Instant) {
        self.0.retain(|_, (heard, _)| now < *heard + STILL_LIMIT);
    }
}

/// The flows of all ports.
type Ways = Arc<Mutex<Flows<mpsc::Sender<Frame>>>>;

async fn receive(inlet: &mut Inlet, door: &Door, flows: &Ways) {
    let mut buffer = vec![0; LONGEST_BYTES];
    loop {
        let (length, flow) = match inlet.receive(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                tracing::debug!(%error, "a datagram to the guest cannot be received");
                sleep(PAUSE).await;
                continue;
            }
        };
        let known = flows.lock().await.way(flow, Instant::now());
        let way = match known {
            Some(way) => way,
            None => match open(inlet, door, flow, flows).await {
                Ok(way) => way,
                Err(error) => {
                    tracing::debug!(error, port = flow.port, "a datagram to the guest is lost");
                    continue;
                }
            },
        };
        // It fails when the machine has ended, and so does this.
        let _ = way.send(Frame::of(&buffer[..length])).await;
    }
}

/// Opens a flow.
async fn open(
    inlet: &mut Inlet,
    door: &Door,
    flow: Flow,
    flows: &Ways,
) -> Result<mpsc::Sender<Frame>, String> {
    // The guest's ports are the manifest's to open, whatever the host has at its own.
    let Datagrams { to_guest, from_guest } =
        door.datagrams(flow.port).await.map_err(|error| error.to_string())?;
    let exit = inlet.exit(flow.port).map_err(|error| error.to_string())?;
    flows.lock().await.open(flow, to_guest.clone(), Instant::now());
    tokio::spawn(answer(flow, from_guest, exit, Arc::clone(flows)));
    Ok(to_guest)
}

/// Sends a flow's answers to its sender, until it has ended.
async fn answer(flow: Flow, mut from_guest: mpsc::Receiver<Frame>, socket: Arc<UdpSocket>, flows: Ways) {
    loop {
        let Some(end) = flows.lock().await.end(flow) else { return };
        tokio::select! {
            biased;
            () = sleep_until(end) => flows.lock().await.close_still(Instant::now()),
            answer = from_guest.recv() => {
                let Some(answer) = answer else { return };
                if let Err(error) = socket.send_to(answer.bytes(), flow.sender).await {
                    tracing::debug!(%error, port = flow.port, "an answer of the guest is lost");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::net::Ipv4Addr;

    use tokio::sync::watch;
    use tokio::time::timeout;

    use super::super::stack::Dial;
    use super::super::{Ports, Protocol};
    use super::*;

    /// Among the addresses of the host's loopback one that no other test has.
    const POD: Ipv4Addr = Ipv4Addr::new(127, 89, 8, 1);

    /// Longest wait for anything. Reached only when a test fails.
    const LIMIT: Duration = Duration::from_secs(60);

    fn flow(sender: u16, port: u16) -> Flow {
        Flow { sender: (Ipv4Addr::LOCALHOST, sender).into(), port }
    }

    #[test]
    fn a_flow_stays_as_long_as_its_sender_is_heard() {
        let began = Instant::now();
        let (one, other) = (flow(4000, 53), flow(4000, 69));
        let mut flows = Flows::default();
        assert_eq!(flows.way(one, began), None);
        flows.open(one, "one", began);
        flows.open(other, "other", began);
        let shortly = Duration::from_nanos(1);
        let heard = began + STILL_LIMIT - shortly;
        assert_eq!(flows.way(one, heard), Some("one"));
        assert_eq!(flows.end(one), Some(heard + STILL_LIMIT));
        flows.close_still(began + STILL_LIMIT - shortly);
        assert_eq!(flows.end(other), Some(began + STILL_LIMIT));
        flows.close_still(began + STILL_LIMIT);
        assert_eq!(flows.end(other), None);
        assert_eq!(flows.way(one, heard + STILL_LIMIT), None, "it has been still, whoever looked meanwhile");
    }

    #[test]
    fn one_too_many_takes_the_place_of_the_stillest() {
        let began = Instant::now();
        let mut flows = Flows::default();
        let senders = 1..=u16::try_from(MOST_FLOWS).unwrap();
        for sender in senders.clone() {
            flows.open(flow(sender, 53), sender, began + Duration::from_secs(sender.into()));
        }
        let later = began + Duration::from_secs(100);
        assert_eq!(flows.way(flow(1, 53), later), Some(1));
        flows.open(flow(1, 69), 0, later);
        assert_eq!(flows.0.len(), MOST_FLOWS);
        for sender in senders {
            assert_eq!(flows.way(flow(sender, 53), later), (sender != 2).then_some(sender));
        }
    }

    /// Its guest's ends of flows, in the order in which they were opened.
    type Opened = mpsc::Receiver<(u16, mpsc::Receiver<Frame>, mpsc::Sender<Frame>)>;

    fn door(ports: Ports) -> (Door, Opened) {
        let (dials, mut asked) = mpsc::channel(1);
        let (opened, guest) = mpsc::channel(MOST_FLOWS + 1);
        tokio::spawn(async move {
            while let Some(Dial::Datagrams { port, reply }) = asked.recv().await {
                let ((to_guest, heard), (says, from_guest)) = (mpsc::channel(4), mpsc::channel(4));
                reply.send(Ok(Datagrams { to_guest, from_guest })).unwrap();
                opened.send((port, heard, says)).await.unwrap();
            }
        });
        let (_, has_lease) = watch::channel(true);
        (Door { ports: Arc::new(ports), dials, has_lease, counters: Arc::default() }, guest)
    }

    async fn heard(socket: &UdpSocket) -> (String, SocketAddr) {
        let mut buffer = [0; 64];
        let (length, from) = timeout(LIMIT, socket.recv_from(&mut buffer)).await.unwrap().unwrap();
        (String::from_utf8(buffer[..length].to_vec()).unwrap(), from)
    }

    #[tokio::test]
    async fn answers_go_back_to_who_has_sent_and_none_after_its_flow() {
        let sockets = [0, 0].map(|port| listen((POD, port).into()).unwrap());
        let [first, second] = [0, 1].map(|index: usize| sockets[index].local_addr().unwrap());
        let taken = listen(first).unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
        let all = Ports([first, second].map(|at| (Protocol::Udp, at.port()..=at.port())).to_vec());
        let (door, mut opened) = door(all);
        serve(None, sockets.into(), &door);

        let clients = [0, 0].map(|port| listen((Ipv4Addr::LOCALHOST, port).into()).unwrap());
        let mut guests = Vec::new();
        for (client, at) in [(&clients[0], first), (&clients[1], first), (&clients[0], second)] {
            client.send_to(format!("to {at}").as_bytes(), at).await.unwrap();
            let (port, mut asked, says) = timeout(LIMIT, opened.recv()).await.unwrap().unwrap();
            assert_eq!(port, at.port());
            assert_eq!(asked.recv().await.unwrap().bytes(), format!("to {at}").as_bytes());
            guests.push((asked, says));
        }
        // Another datagram of a flow comes by the same way.
        clients[0].send_to(b"again", first).await.unwrap();
        assert_eq!(timeout(LIMIT, guests[0].0.recv()).await.unwrap().unwrap().bytes(), b"again");
        // The guest's answers, in another order than it was asked.
        for (guest, client, at) in [(2, 0, second), (1, 1, first), (0, 0, first)] {
            guests[guest].1.send(Frame::of(format!("from {guest}").as_bytes())).await.unwrap();
            assert_eq!(heard(&clients[client]).await, (format!("from {guest}"), at));
        }

        // So many others come that no place is left; the one that has been still for longest is the second.
        clients[0].send_to(b"still here", first).await.unwrap();
        assert_eq!(timeout(LIMIT, guests[0].0.recv()).await.unwrap().unwrap().bytes(), b"still here");
        let mut others = Vec::new();
        for _ in guests.len()..=MOST_FLOWS {
            let other = listen((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
            other.send_to(b"me too", second).await.unwrap();
            others.push((other, timeout(LIMIT, opened.recv()).await.unwrap().unwrap()));
        }
        assert_eq!(timeout(LIMIT, guests[1].0.recv()).await.unwrap(), None, "its flow has ended");
        guests[0].1.send(Frame::of(b"the first")).await.unwrap();
        assert_eq!(heard(&clients[0]).await, ("the first".to_owned(), first));
    }

    #[tokio::test]
    async fn a_guest_says_nothing_to_who_has_been_still() {
        let socket = Arc::new(listen((POD, 0).into()).unwrap());
        let client = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        client.set_nonblocking(true).unwrap();
        let sender = client.local_addr().unwrap();
        let flow = Flow { sender, port: socket.local_addr().unwrap().port() };
        let flows = Ways::default();
        for (heard, is_answered) in [(Instant::now(), true), (Instant::now() - 2 * STILL_LIMIT, false)] {
            let ((to_guest, mut asked), (says, from_guest)) = (mpsc::channel(1), mpsc::channel(1));
            flows.lock().await.open(flow, to_guest, heard);
            says.send(Frame::of(b"an answer")).await.unwrap();
            drop(says);
            timeout(LIMIT, answer(flow, from_guest, Arc::clone(&socket), Arc::clone(&flows))).await.unwrap();
            assert_eq!(client.recv_from(&mut [0; 64]).is_ok(), is_answered);
            let has_ended = matches!(asked.try_recv(), Err(mpsc::error::TryRecvError::Disconnected));
            assert_eq!(has_ended, !is_answered);
        }
    }
}
