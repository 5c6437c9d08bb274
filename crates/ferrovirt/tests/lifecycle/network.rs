//! Guests with a network: DHCP, what they reach, what they do not, and how they are reached.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Command, Stdio};
use std::time::Duration;

use futures::{SinkExt as _, StreamExt as _};
use launcher::pod_dir::CONTROL_PORT;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::client;
use crate::command_line::command;
use crate::console::Terminal;
use crate::room::{Boot, Room, instance, machine};
use crate::server::{DEADLINE, finish, finish_with_input, wait_until};
use crate::streams::{self, Socket};

/// An address among those of launchers that no Pod has.
const LAUNCHERS: Ipv4Addr = Ipv4Addr::new(127, 88, 255, 250);

/// Pushes the image of a guest with a network.
fn push(room: &Room, reference: &str) {
    room.push_initrd(reference, "initrd-network");
}

/// A connection through the API to a port of the guest.
pub struct Connection(pub Socket);

impl Connection {
    /// Connects to `virtualmachineinstances/NAME/portforward/PORT` or the like; otherwise code and message of the answer.
    pub async fn open(room: &Room, path: &str) -> Result<Self, (u16, String)> {
        let opened = streams::open(room, path).await.map(Self);
        opened.map_err(|(code, status)| (code, status["message"].as_str().unwrap().to_owned()))
    }

    async fn send(&mut self, bytes: &[u8]) {
        self.0.send(Message::Binary(bytes.to_vec().into())).await.unwrap();
    }

    /// Reads `length` bytes, or to the end where there are fewer.
    async fn read(&mut self, length: usize) -> Vec<u8> {
        let mut read = Vec::new();
        while read.len() < length {
            let message = timeout(DEADLINE, self.0.next()).await.expect("the guest answers");
            match message.unwrap().unwrap() {
                Message::Binary(bytes) => read.extend_from_slice(&bytes),
                Message::Ping(_) => {}
                Message::Close(frame) => {
                    assert_eq!(frame.unwrap().code, CloseCode::Normal);
                    break;
                }
                other => panic!("{other:?}"),
            }
        }
        read
    }
}

/// The address of this host on its network: none where it has no network, and passt nothing to go by.
fn own_address() -> Option<Ipv4Addr> {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    // Nothing is sent: the kernel only chooses a way.
    socket.connect("192.0.2.250:9").ok()?;
    match socket.local_addr().unwrap() {
        SocketAddr::V4(address) if !address.ip().is_loopback() => Some(*address.ip()),
        _ => None,
    }
}

/// A server that says `text` to everybody who connects.
fn greeter(address: Ipv4Addr, text: &'static str) -> u16 {
    let listener = TcpListener::bind((address, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            // Who is gone already wants nothing.
            let _ = stream.write_all(text.as_bytes());
            let _ = stream.shutdown(Shutdown::Write);
            let _ = stream.read(&mut [0; 64]);
        }
    });
    port
}

#[test]
fn a_guest_has_a_lease_and_is_reached_through_the_api() {
    let room = Room::new();
    let image = room.reference("guests/network:1");
    push(&room, &image);
    client::runtime().block_on(async {
        let web = "virtualmachines/web/portforward/80";
        let (code, message) = Connection::open(&room, web).await.err().unwrap();
        assert_eq!((code, message.as_str()), (404, "virtualmachine.kubevirt.io \"web\" not found"));
        let mut web = machine("web", "Halted", &Boot { image: &image, policy: "", guest: "network" });
        web["spec"]["template"]["spec"]["hostname"] = json!("named");
        room.apply(&web);
        let refused = Connection::open(&room, "virtualmachines/web/portforward/80").await.err().unwrap();
        let conflict =
            "Operation cannot be fulfilled on virtualmachine.kubevirt.io \"web\": VMI is not started";
        assert_eq!(refused, (409, conflict.to_owned()));

        room.put("web", "start", &json!({})).succeeded();
        room.wait("vmi/web", "has an interface", |found| {
            found["status"]["interfaces"].as_array().is_some_and(|interfaces| !interfaces.is_empty())
        });
        room.wait_for_console("web", "guest: shell is ready");
        let console = room.console("web");
        let lease = "guest: lease 10.0.2.2/24 from 10.0.2.1, router 10.0.2.1";
        let names = "names 10.0.2.3, host named, mtu 65520";
        assert!(console.contains(lease) && console.contains(names), "{console}");
        let pod = &room.pods_of("web")[0];
        let found = room.wait("vmi/web", "has a lease", |found| {
            found["status"]["interfaces"][0]["ipAddresses"][1] == "10.0.2.2"
        });
        let interface = &found["status"]["interfaces"][0];
        assert!(console.contains(&format!("guest: card {}", interface["mac"].as_str().unwrap())));
        assert_eq!(
            *interface,
            json!({
                "name": "default", "mac": interface["mac"], "ipAddress": pod["status"]["podIP"],
                "ipAddresses": [pod["status"]["podIP"], "10.0.2.2"], "podInterfaceName": "eth0", "infoSource": "domain",
                "queueCount": 1, "linkState": "up",
            })
        );

        for path in ["virtualmachines/web/portforward/80", "virtualmachineinstances/web/portforward/80/tcp"] {
            let mut http = Connection::open(&room, path).await.unwrap();
            http.send(b"GET / HTTP/1.0\r\n\r\n").await;
            let answer = http.read(usize::MAX).await;
            let answer = String::from_utf8_lossy(&answer).into_owned();
            assert!(
                answer.starts_with("HTTP/1.1 200") && answer.ends_with("served by the guest\n"),
                "{answer}"
            );
        }
        // Nothing is lost or changed on the way, however much it is.
        let echo = Connection::open(&room, "virtualmachineinstances/web/portforward/7").await.unwrap();
        let sent: Vec<u8> =
            (0..3_000_000u32).flat_map(|number| number.to_be_bytes()).take(3_000_001).collect();
        let (mut writer, mut reader) = echo.0.split();
        let writing = async {
            for piece in sent.chunks(100_000) {
                writer.send(Message::Binary(piece.to_vec().into())).await.unwrap();
            }
        };
        let mut back = Vec::new();
        let reading = async {
            while back.len() < sent.len() {
                if let Message::Binary(bytes) = reader.next().await.unwrap().unwrap() {
                    back.extend_from_slice(&bytes);
                }
            }
        };
        timeout(DEADLINE, async { tokio::join!(writing, reading) }).await.expect("all of it comes back");
        assert!(back == sent, "the guest's echo is another than what was said");

        let both_ways = sent.len() as f64;
        for direction in ["receive", "transmit"] {
            let metric = format!("kubevirt_vmi_network_{direction}_bytes_total");
            wait_until(&format!("what is carried is told: {metric}"), || told(&room, "web", &metric, both_ways));
        }

        // A client that has said all still hears what the guest says to that.
        let mut echo = Connection::open(&room, "virtualmachineinstances/web/portforward/7").await.unwrap();
        echo.send(b"the last").await;
        echo.send(b"").await;
        assert_eq!(echo.read(usize::MAX).await, b"the last");

        forwarded_by_the_command(&room);
        let refused =
            Connection::open(&room, "virtualmachineinstances/web/portforward/81").await.err().unwrap();
        let message = "Internal error occurred: dialing VM: the guest refuses connections to port 81";
        assert_eq!(refused, (500, message.to_owned()));
        room.put_to("virtualmachineinstances", "web", "pause", &json!({})).succeeded();
        room.wait("vmi/web", "is paused", |found| {
            let conditions = found["status"]["conditions"].as_array().unwrap();
            conditions.iter().any(|condition| condition["type"] == "Paused" && condition["status"] == "True")
        });
        let refused = Connection::open(&room, "virtualmachines/web/portforward/80").await.err().unwrap();
        assert_eq!(refused.0, 409);
        assert!(refused.1.ends_with("\"web\": VMI is paused"), "{}", refused.1);
    });
    room.kubectl(&["delete", "vm", "web"]);
    room.wait_until_empty();
}

/// The same guest by the ports and the standard streams of the command.
fn forwarded_by_the_command(room: &Room) {
    let command = |line: &str| command(room, line);
    let echo = finish_with_input(command("port-forward --stdio=true vm/web 7"), "there and back").succeeded();
    assert_eq!((echo.stdout.as_str(), echo.stderr.as_str()), ("there and back", ""));
    let refused = finish(command("port-forward --stdio vm/web 81")).failed();
    assert!(refused.stderr.contains("the guest refuses connections to port 81"), "{}", refused.stderr);

    // The guest's server is one of HTTP, and answers to what `ssh` says to it.
    let ssh = finish(command("ssh root@vm/web -p 80 -t -v -t -oBatchMode=yes")).failed();
    assert!(ssh.stderr.contains("banner line 0: HTTP/1.1 400 Bad Request"), "{}", ssh.stderr);
    assert_eq!(ssh.status.code(), Some(255), "{}", ssh.stderr);

    let mut command = command("port-forward vm/web/default :80 tcp/0:7 :81");
    let mut forwarding = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(forwarding.stdout.take().unwrap()).lines();
    let [http, echo, closed] = [80, 7, 81].map(|guest| {
        let line = lines.next().unwrap().unwrap();
        let local =
            line.strip_prefix("Forwarding from ").and_then(|rest| rest.strip_suffix(&format!(" -> {guest}")));
        local.unwrap_or_else(|| panic!("{line}")).parse::<SocketAddr>().unwrap()
    });
    // The guest ends this one, the client the other: in both cases all of it arrives.
    let mut answer = String::new();
    let mut client = TcpStream::connect(http).unwrap();
    client.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    client.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("served by the guest\n"), "{answer}");
    let sent: Vec<u8> = (0..300_000u32).flat_map(u32::to_be_bytes).collect();
    let mut client = TcpStream::connect(echo).unwrap();
    let mut reader = client.try_clone().unwrap();
    let reading = std::thread::spawn(move || {
        let mut back = Vec::new();
        reader.read_to_end(&mut back).map(|_| back)
    });
    client.write_all(&sent).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert!(reading.join().unwrap().unwrap() == sent, "the guest's echo is another than what was said");
    // Who comes to a closed port is told nothing, and the user is.
    let mut client = TcpStream::connect(closed).unwrap();
    assert_eq!(client.read(&mut [0; 1]).unwrap_or(0), 0);

    kill_process(Pid::from_child(&forwarding), Signal::INT).unwrap();
    let mut told = String::new();
    forwarding.stderr.take().unwrap().read_to_string(&mut told).unwrap();
    assert_eq!(forwarding.wait().unwrap().code(), Some(0), "{told}");
    assert!(told.contains(&format!("Handling connection for {}\n", http.port())), "{told}");
    let refused = "error: cannot connect to port 81 of VirtualMachine `default/web`\n  cause: Internal error occurred: \
                   dialing VM: the guest refuses connections to port 81\n";
    assert!(told.contains(refused), "{told}");
}

/// Datagrams stay what they are, on a WebSocket and on a port of this host.
#[test]
fn a_guest_is_sent_datagrams() {
    let room = Room::new();
    let image = room.reference("guests/datagrams:1");
    room.push_initrd(&image, "initrd-agent");
    let mut echo = instance("echo", &Boot { image: &image, policy: "", guest: "network" });
    echo["spec"]["networks"] = json!([{"name": "default", "pod": {}}]);
    let ports = [7, 9, 10, 11].map(|port| json!({"port": port, "protocol": "UDP"}));
    echo["spec"]["domain"]["devices"]["interfaces"] =
        json!([{"name": "default", "masquerade": {}, "ports": ports}]);
    room.apply(&echo);
    room.wait_for_phase("vmi/echo", "Running");
    room.wait_for_console("echo", "guest: shell is ready");
    // The guest reads so much at a time.
    let sent = [b"one".to_vec(), b"a second".to_vec(), vec![7; 4000]];
    client::runtime().block_on(async {
        let path = "virtualmachineinstances/echo/portforward/7/udp";
        let mut echo = Connection::open(&room, path).await.unwrap();
        for datagram in &sent {
            echo.send(datagram).await;
            assert!(echo.read(1).await == *datagram, "an answer for each, and as it was asked");
        }
    });
    let mut command = command(&room, "port-forward vmi/echo udp/0:9");
    let mut forwarding = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(forwarding.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let local = line.strip_prefix("Forwarding from ").and_then(|rest| rest.strip_suffix(" -> udp/9\n"));
    let local = local.unwrap_or_else(|| panic!("{line}")).parse::<SocketAddr>().unwrap();
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.connect(local).unwrap();
    client.set_read_timeout(Some(DEADLINE)).unwrap();
    for datagram in &sent {
        client.send(datagram).unwrap();
        let mut answer = vec![0; 1 << 16];
        let length = client.recv(&mut answer).unwrap();
        assert!(answer[..length] == *datagram, "an answer for each, and as it was asked");
    }
    kill_process(Pid::from_child(&forwarding), Signal::INT).unwrap();
    let mut told = String::new();
    forwarding.stderr.take().unwrap().read_to_string(&mut told).unwrap();
    assert_eq!(forwarding.wait().unwrap().code(), Some(0), "{told}");
    let told_of = format!("Handling datagrams of {}\n", client.local_addr().unwrap());
    assert!(told.contains(&told_of), "{told}");
    client::runtime().block_on(sent_to_the_pods_address(&room, &sent));
    room.kubectl(&["delete", "vmi", "echo"]);
    room.wait_until_empty();
}

/// The guest `echo`, at the address of its Pod: each sender gets its own answers. What cannot be carried is counted.
async fn sent_to_the_pods_address(room: &Room, sent: &[Vec<u8>]) {
    let pod = pods_address(room, "echo");
    let mut terminal = Terminal::open(room, "echo", "").await.unwrap();
    // Each of them answers to the first that asks it, once it listens.
    let echo = |port: u16| {
        let listens =
            format!("for i in $(seq 600); do netstat -lnu | grep ':{port} ' && break; sleep 0.1; done");
        [format!("nc.traditional -u -l -p {port} -e /bin/cat &"), listens]
    };
    type_lines(&mut terminal, &echo(10)).await;
    type_lines(&mut terminal, &echo(11)).await;
    let [first, second] = [0, 0].map(|port| {
        let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        client
    });
    let expect_echo = |client: &UdpSocket, port: u16, datagram: &[u8]| {
        client.send_to(datagram, (pod, port)).unwrap();
        let mut answer = vec![0; 1 << 16];
        let (length, from) = client.recv_from(&mut answer).unwrap();
        assert!(
            answer[..length] == *datagram && from == SocketAddr::from((pod, port)),
            "{from}, {length} bytes"
        );
    };
    for datagram in sent {
        expect_echo(&first, 10, datagram);
        expect_echo(&first, 11, datagram);
    }
    type_lines(&mut terminal, &["kill $!; ! wait $!".to_owned()]).await;
    type_lines(&mut terminal, &echo(11)).await;
    expect_echo(&second, 11, b"another sender");
    expect_echo(&first, 10, b"the same one as before");
    first.set_nonblocking(true).unwrap();
    let nothing = first.recv(&mut [0; 1]).unwrap_err();
    assert_eq!(nothing.kind(), std::io::ErrorKind::WouldBlock, "nothing that is another's");

    // Longer than a packet of the card, and for many stations.
    first.send_to(&[0; 65_507], (pod, 10)).unwrap();
    type_lines(&mut terminal, &["! ping -c 1 -w 1 -I eth0 224.0.0.1 >/dev/null".to_owned()]).await;
    for direction in ["receive", "transmit"] {
        let metric = format!("kubevirt_vmi_network_{direction}_packets_dropped_total");
        wait_until(&format!("it is told that something is lost: {metric}"), || {
            told(room, "echo", &metric, 1.0)
        });
    }
}

/// Has the guest do this, which goes well.
async fn type_lines(terminal: &mut Terminal, lines: &[String]) {
    for line in lines {
        terminal.type_line(line).await;
        terminal.expect("guest: status 0").await;
    }
}

/// What a metric of the card of an instance says, once that is so much at least.
fn told(room: &Room, instance: &str, metric: &str, least: f64) -> Option<f64> {
    let metrics = room.kubectl(&["get", "--raw", "/metrics"]).stdout;
    let series = format!(
        "{metric}{{node=\"node-1\",namespace=\"default\",name=\"{instance}\",interface=\"default\"}} "
    );
    let told = metrics.lines().find_map(|line| line.strip_prefix(&series));
    told.and_then(|told| told.parse().ok()).filter(|told| *told >= least)
}

/// What a guest is told that connects there, with a full stop behind.
async fn ask(terminal: &mut Terminal, address: Ipv4Addr, port: u16) -> String {
    ask_all(terminal, &[(address, port)]).await
}

/// What a guest is told that connects to all of these at the same time.
async fn ask_all(terminal: &mut Terminal, servers: &[(Ipv4Addr, u16)]) -> String {
    // The guest's end of the connection stays open for a moment: passt forgets the other one's when both close at once.
    let client = |(address, port): &(Ipv4Addr, u16)| {
        format!("sleep 1 | timeout 9 nc -w 4 {address} {port} 2>/dev/null &")
    };
    let clients: String = servers.iter().map(client).collect();
    terminal.type_line(&format!("echo guest: said \"$({clients} wait).\"")).await;
    terminal.expect("guest: said ").await;
    terminal.read_to("\r\n").await
}

/// What stands for the host's loopback in a guest's network where the manifest asks for that, and nowhere else.
const HOST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 4);

/// The other addresses of a guest's network, its name server's and one that nobody has among them.
const NEIGHBOURS: [Ipv4Addr; 4] = [
    Ipv4Addr::new(10, 0, 2, 0),
    Ipv4Addr::new(10, 0, 2, 1),
    Ipv4Addr::new(10, 0, 2, 3),
    Ipv4Addr::new(10, 0, 2, 5),
];

#[test]
fn a_guest_reaches_the_hosts_network_and_not_its_loopback() {
    expect_a_way_out(&Room::new(), |_| {});
}

/// The same where passt is not installed. The process that is the way out then is not spared of an end, and followed by
/// another.
#[test]
fn without_passt_qemu_is_a_guests_way_out() {
    expect_a_way_out(&Room::with_qemu_alone(), |room| {
        let ways = user_networks(room);
        assert_eq!(ways.len(), 2, "one for each guest: {ways:?}");
        for (way, status) in &ways {
            if rustix::process::geteuid().is_root() {
                assert!(status.contains("\nUid:\t65534\t65534\t65534\t65534\n"), "{status}");
                assert!(status.contains("\nCapBnd:\t0000000000000000\n"), "{status}");
            }
            kill_process(*way, Signal::KILL).unwrap();
        }
    });
}

/// The user networks of a room's guests: QEMUs with a name of their own; and what the kernel says of them.
fn user_networks(room: &Room) -> Vec<(Pid, String)> {
    let children = |launcher: Pid| {
        let launcher = launcher.as_raw_nonzero();
        let children = std::fs::read_to_string(format!("/proc/{launcher}/task/{launcher}/children")).unwrap();
        children.split_whitespace().map(|child| child.parse().unwrap()).collect::<Vec<i32>>()
    };
    let way = |child: i32| {
        let status = std::fs::read_to_string(format!("/proc/{child}/status")).unwrap();
        let is_way = status.starts_with("Name:\tuser-network\n");
        is_way.then(|| (Pid::from_raw(child).unwrap(), status))
    };
    room.processes("launcher").into_iter().flat_map(children).filter_map(way).collect()
}

/// Guests ask for addresses by name, by the gateway and by force: only what is on the host's network answers. After
/// `disturb` too, in a while.
fn expect_a_way_out(room: &Room, disturb: impl Fn(&Room)) {
    let Some(own) = own_address() else {
        println!("this machine has no network for a guest to reach");
        return;
    };
    let image = room.reference("guests/outward:1");
    push(room, &image);
    let outside = greeter(own, "from the host's network");
    let closed = greeter(Ipv4Addr::LOCALHOST, "from the loopback");
    let launchers = greeter(LAUNCHERS, "from a launcher");
    let mut open = instance("open", &Boot { image: &image, policy: "", guest: "network" });
    open["metadata"]["annotations"] = json!({"ferrovirt.dev/host-loopback": "true"});
    room.apply(&open);
    room.apply(&instance("closed", &Boot { image: &image, policy: "", guest: "network" }));
    client::runtime().block_on(async {
        for name in ["open", "closed"] {
            room.wait_for_phase(&format!("vmi/{name}"), "Running");
            let mut terminal = Terminal::open(room, name, "?replay=true").await.unwrap();
            terminal.expect("guest: shell is ready").await;
            let network = "from the host's network.";
            assert_eq!(ask(&mut terminal, own, outside).await, network, "{name}");
            let expected = if name == "open" { "from the loopback." } else { "." };
            assert_eq!(ask(&mut terminal, HOST, closed).await, expected, "{name}");
            // Neither the gateway nor anybody else is the host.
            let others = NEIGHBOURS.map(|address| (address, closed));
            assert_eq!(ask_all(&mut terminal, &others).await, ".", "{name}");
            // A guest's kernel may be told to send outside what is for its loopback.
            let forced = "echo 1 >/proc/sys/net/ipv4/conf/all/route_localnet && ip addr del 127.0.0.1/8 dev lo && \
                          ip route add 127.0.0.0/8 via 10.0.2.1 dev eth0 src 10.0.2.2";
            terminal.type_line(forced).await;
            terminal.expect("guest: status 0").await;
            let loopback = [(Ipv4Addr::LOCALHOST, closed), (LAUNCHERS, launchers)];
            assert_eq!(ask_all(&mut terminal, &loopback).await, ".", "{name}");
            assert_eq!(ask(&mut terminal, own, outside).await, network, "{name}");
        }
        disturb(room);
        let mut terminal = Terminal::open(room, "open", "").await.unwrap();
        let again = async { while ask(&mut terminal, own, outside).await != "from the host's network." {} };
        timeout(DEADLINE, again).await.expect("there is a way again");
        assert_eq!(ask(&mut terminal, HOST, closed).await, "from the loopback.");
    });
    room.kubectl(&["delete", "vmi", "open", "closed"]);
    room.wait_until_empty();
}

/// Names are asked of the host's name server, here one on the loopback, where other servers stay closed.
#[test]
fn a_guest_asks_the_hosts_name_server_and_nothing_else_there() {
    let own_resolver = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(own_resolver.path(), "nameserver 127.0.0.1\n").unwrap();
    std::fs::set_permissions(own_resolver.path(), std::os::unix::fs::PermissionsExt::from_mode(0o644))
        .unwrap();
    // A way to nowhere, for passt to go by.
    let preparation = format!(
        "mount --bind {} /etc/resolv.conf && ip link add way0 type veth peer name way1 && \
         ip addr add 198.51.100.1/24 dev way0 && ip link set way0 up && ip link set way1 up && \
         ip route add default via 198.51.100.2",
        own_resolver.path().display()
    );
    match is_in_a_place_of_its_own(
        "network::a_guest_asks_the_hosts_name_server_and_nothing_else_there",
        &preparation,
    ) {
        Ok(true) => {}
        Ok(false) => return,
        Err(why) => return println!("no network of its own for this test, which takes root: {why}"),
    }
    name_server();
    let other = greeter(Ipv4Addr::LOCALHOST, "from beside the name server");
    for room in [Room::new(), Room::with_qemu_alone()] {
        let image = room.reference("guests/names:1");
        push(&room, &image);
        room.apply(&instance("asks", &Boot { image: &image, policy: "", guest: "network" }));
        client::runtime().block_on(async {
            room.wait_for_phase("vmi/asks", "Running");
            let mut terminal = Terminal::open(&room, "asks", "?replay=true").await.unwrap();
            terminal.expect("guest: shell is ready").await;
            terminal.type_line("nslookup somewhere.example. 10.0.2.3").await;
            terminal.expect("203.0.113.77").await;
            terminal.expect("guest: status").await;
            let server = Ipv4Addr::new(10, 0, 2, 3);
            assert_eq!(ask(&mut terminal, server, other).await, ".");
        });
        room.kubectl(&["delete", "vmi", "asks"]);
        room.wait_until_empty();
    }
}

/// A name server that knows one address for everything (RFC 1035, 4).
fn name_server() {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 53)).unwrap();
    std::thread::spawn(move || {
        let mut question = [0; 512];
        loop {
            let (length, from) = socket.recv_from(&mut question).unwrap();
            // A query for an address of IPv4 ends with its type and class: A, IN.
            let is_known = question[..length].ends_with(&[0, 1, 0, 1]);
            let mut answer = question[..length].to_vec();
            answer[2..8].copy_from_slice(&[0x81, 0x80, 0, 1, 0, u8::from(is_known)]);
            if is_known {
                answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 203, 0, 113, 77]);
            }
            socket.send_to(&answer, from).unwrap();
        }
    });
}

/// Whether this process has a network of its own, whose firewall is its own too. Where it has not and could, another
/// process that has one runs `test`, this one's caller.
fn is_in_a_network_of_its_own(test: &str) -> Result<bool, String> {
    is_in_a_place_of_its_own(test, "nft list ruleset >/dev/null")
}

/// The same with mounts of its own, once `preparation` has been made there.
fn is_in_a_place_of_its_own(test: &str, preparation: &str) -> Result<bool, String> {
    const INSIDE: &str = "IN_A_NETWORK_OF_ITS_OWN";
    if std::env::var_os(INSIDE).is_some() {
        return Ok(true);
    }
    let unshare = |then: &str| {
        let script = format!("ip link set lo up && {preparation} && {then}");
        let mut command = Command::new("unshare");
        command
            .args(["--net", "--mount", "sh", "-c", &script])
            .arg(std::env::current_exe().unwrap())
            .arg(test);
        command
    };
    let tried = unshare("true").output().map_err(|error| error.to_string())?;
    if !tried.status.success() {
        return Err(String::from_utf8_lossy(&tried.stderr).into_owned());
    }
    let mut inside = unshare("exec \"$0\" --exact --nocapture \"$1\"");
    assert!(inside.env(INSIDE, "1").status().unwrap().success(), "it fails in a network of its own");
    Ok(false)
}

/// The address of the Pod of `instance`.
fn pods_address(room: &Room, instance: &str) -> Ipv4Addr {
    room.pods_of(instance)[0]["status"]["podIP"].as_str().unwrap().parse().unwrap()
}

/// A connection whose other end answers in time.
fn connected(address: (Ipv4Addr, u16)) -> TcpStream {
    let client = TcpStream::connect(address).unwrap();
    client.set_read_timeout(Some(DEADLINE)).unwrap();
    client
}

/// The guest's page at this address.
fn expect_page(address: (Ipv4Addr, u16)) {
    let mut answer = String::new();
    let mut client = connected(address);
    client.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    client.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("served by the guest\n"), "{answer}");
}

/// Says `text` to who echoes.
fn expect_echo(echo: &mut TcpStream, text: &str) {
    echo.write_all(text.as_bytes()).unwrap();
    let mut answer = vec![0; text.len()];
    echo.read_exact(&mut answer).unwrap();
    assert_eq!(String::from_utf8(answer).unwrap(), text);
}

/// What a client gets of a redirected port that leads nowhere.
fn expect_reset(address: Ipv4Addr, port: u16) {
    let mut client = connected((address, port));
    client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let error = client.read(&mut [0; 1]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{address}:{port}");
}

/// A rule of the firewall opens all ports of a guest at its Pod's address, as far as the manifest allows, and stays when
/// the daemon ends.
#[test]
fn all_ports_are_open_at_the_pods_address() {
    match is_in_a_network_of_its_own("network::all_ports_are_open_at_the_pods_address") {
        Ok(true) => {}
        Ok(false) => return,
        Err(why) => return println!("no firewall of its own for this test, which takes root and nft: {why}"),
    }
    // Of a range that is longer than what a launcher listens on.
    const LAST: u16 = 20_200;
    // A launcher of an earlier version listens on ports itself, and nothing else will.
    let old = Ipv4Addr::new(127, 88, 255, 251);
    let _control = TcpListener::bind((old, CONTROL_PORT)).unwrap();
    let olds = greeter(old, "from an old launcher");

    let mut room = Room::with_all_ports();
    let opened = room.wait_for_log("of guests are open at Pods' addresses");
    let with_datagrams = opened.contains("all ports");
    if !with_datagrams {
        println!("this kernel hands no datagrams on: {opened}");
    }
    let image = room.reference("guests/all-ports:1");
    // With one that echoes datagrams.
    room.push_initrd(&image, "initrd-agent");
    // Somebody else has this one at every address of the host.
    let holder = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    let taken = holder.local_addr().unwrap().port();
    let boot = Boot { image: &image, policy: "", guest: "network" };
    room.apply(&instance("all", &boot));
    let mut listed = instance("listed", &boot);
    listed["spec"]["networks"] = json!([{"name": "default", "pod": {}}]);
    listed["spec"]["domain"]["devices"]["interfaces"] = json!([{
        "name": "default", "masquerade": {}, "ports": [{"port": 80}, {"port": taken}],
        // More than are listened on.
        "portRanges": [{"protocol": "TCP", "start": LAST - 200, "end": LAST}],
    }]);
    room.apply(&listed);
    for name in ["all", "listed"] {
        room.wait_for_phase(&format!("vmi/{name}"), "Running");
        room.wait_for_console(name, "guest: shell is ready");
    }
    client::runtime().block_on(async {
        let mut terminal = Terminal::open(&room, "listed", "").await.unwrap();
        terminal.type_line(&format!("httpd -p {LAST} -h /www")).await;
        terminal.expect("guest: status 0").await;
    });
    let (all, listed) = (pods_address(&room, "all"), pods_address(&room, "listed"));
    expect_page((all, 80));
    expect_page((listed, 80));
    expect_page((listed, LAST));
    expect_reset(listed, 7);
    // Nobody is there, of the guest's or at all.
    expect_reset(all, 81);
    expect_reset(listed, taken);
    let refused = TcpStream::connect((LAUNCHERS, 80)).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    let asker = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    asker.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let expect_answers = |datagram: &[u8]| {
        if !with_datagrams {
            return;
        }
        // Both at once, the one twice: answers come from where each was asked.
        for port in [7, 9, 7] {
            asker.send_to(datagram, (all, port)).unwrap();
        }
        let mut from = [0; 3].map(|_| {
            let mut answer = [0; 64];
            let (length, from) = asker.recv_from(&mut answer).unwrap();
            assert_eq!(answer[..length], *datagram);
            assert_eq!(from.ip(), IpAddr::from(all));
            from.port()
        });
        from.sort_unstable();
        assert_eq!(from, [7, 7, 9]);
    };
    expect_answers(b"datagrams too");
    let events = room.events("VirtualMachineInstance", "listed");
    assert!(!events.iter().any(|event| event.contains("not open at the Pod's address")), "{events:?}");
    let expect_old = || {
        let mut answer = String::new();
        connected((old, olds)).read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "from an old launcher");
    };
    expect_old();

    // What goes on: launchers, connections and the rule, when one daemon follows another.
    let mut echo = connected((all, 7));
    expect_echo(&mut echo, "once");
    room.stop_server();
    expect_echo(&mut echo, "without a daemon");
    expect_answers(b"without a daemon");
    expect_page((all, 80));
    room.start_server();
    room.wait_for_log("of guests are open at Pods' addresses");
    expect_echo(&mut echo, "with the next one");
    expect_answers(b"with the next one");
    expect_page((all, 80));
    expect_old();
    room.kubectl(&["delete", "vmi", "all", "listed"]);
    room.wait_until_empty();
}

/// The guest `listed`, at the address of its Pod: by its port 80, and by no other.
fn reached_at_the_pods_address(room: &Room, taken: u16) {
    let pod = pods_address(room, "listed");
    expect_page((pod, 80));
    let refused = TcpStream::connect((pod, 7)).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    let closed =
        format!("the Pod's address {pod}: {taken} (Address already in use (os error 98)); port-forward");
    room.wait_for_event("VirtualMachineInstance", "listed", &closed);
}

/// Without a network there is no card; with ports, only they are reached; and who is not there yet is told so.
#[test]
fn a_guest_is_reached_as_far_as_its_manifest_says() {
    // Otherwise a rule of this host may have its say.
    if is_in_a_network_of_its_own("network::a_guest_is_reached_as_far_as_its_manifest_says") == Ok(false) {
        return;
    }
    let room = Room::new();
    let image = room.reference("guests/ports:1");
    push(&room, &image);
    let boot = Boot { image: &image, policy: "", guest: "network" };
    // Somebody else has this one at every address of the host.
    let holder = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    let taken = holder.local_addr().unwrap().port();
    let mut lonely = instance("lonely", &boot);
    lonely["spec"]["domain"]["devices"]["autoattachPodInterface"] = json!(false);
    let mut listed = instance("listed", &boot);
    listed["spec"]["networks"] = json!([{"name": "default", "pod": {}}]);
    listed["spec"]["domain"]["devices"]["interfaces"] = json!([{
        "name": "default", "masquerade": {}, "macAddress": "de:ad:00:00:be:af",
        "ports": [{"port": 80}, {"port": taken}],
    }]);
    room.apply(&lonely);
    room.apply(&listed);
    for name in ["lonely", "listed"] {
        room.wait_for_phase(&format!("vmi/{name}"), "Running");
        room.wait_for_console(name, "guest: shell is ready");
    }
    assert!(room.console("lonely").contains("guest: no card"));
    assert!(room.console("listed").contains("guest: card de:ad:00:00:be:af"));
    reached_at_the_pods_address(&room, taken);
    client::runtime().block_on(async {
        let port = async |name: &str, port: u16| {
            Connection::open(&room, &format!("virtualmachineinstances/{name}/portforward/{port}")).await
        };
        let none = (400, "no network interfaces are present".to_owned());
        assert_eq!(port("lonely", 80).await.err(), Some(none));
        assert!(port("listed", 80).await.is_ok());
        let message = "dialing VM: port 7 is not among the `ports` of the guest's interface";
        let message = format!("Internal error occurred: {message}");
        assert_eq!(port("listed", 7).await.err(), Some((500, message)));
        let mut open = port("listed", 80).await.unwrap();
        // The connection ends with the guest.
        room.kubectl(&["delete", "vmi", "listed", "--wait=false"]);
        let end = timeout(DEADLINE, open.0.next()).await.expect("the connection ends");
        assert!(!matches!(end, Some(Ok(Message::Binary(_)))), "{end:?}");
    });
    room.kubectl(&["delete", "vmi", "lonely"]);
    room.wait_until_gone("vmi/listed");
    room.wait_until_empty();
}
