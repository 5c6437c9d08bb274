//! A registry that misbehaves as a test tells it to: each request is answered by a closure with a status, headers and
//! bytes, all of which may be wrong.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// How long a client may be silent on an open connection.
const IDLE: Duration = Duration::from_secs(60);

/// What a client asked for.
#[derive(Debug, Clone)]
pub struct Request {
    /// `GET`, `HEAD`, ...
    pub method: String,
    /// The path with its query.
    pub path: String,
    /// The header lines, names in lower case.
    pub headers: Vec<(String, String)>,
}

impl Request {
    /// The first byte of a resumed download (`Range: bytes=N-`).
    pub fn first_byte_asked(&self) -> Option<usize> {
        let range = self.headers.iter().find(|(name, _)| name == "range")?;
        range.1.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()
    }
}

/// What it gets.
pub struct Response {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    /// How many bytes of the body are sent before the connection is closed.
    sent: usize,
}

impl Response {
    /// An answer with a body.
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        let body = body.into();
        Self { status, headers: Vec::new(), sent: body.len(), body }
    }

    /// Adds a header.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Closes the connection in the middle of the body, which is announced in full.
    pub fn cut_short(mut self) -> Self {
        self.sent = self.body.len() / 2;
        self
    }
}

type Answer = dyn Fn(&Request) -> Response + Send + Sync;

/// A server on a loopback port of its own, ended when dropped.
pub struct ScriptedRegistry {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<Request>>>,
    is_over: Arc<AtomicBool>,
    acceptor: Option<JoinHandle<()>>,
}

impl ScriptedRegistry {
    /// Starts answering with `answer`.
    pub fn start(answer: impl Fn(&Request) -> Response + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let answer: Arc<Answer> = Arc::new(answer);
        let requests = Arc::new(Mutex::new(Vec::new()));
        let is_over = Arc::new(AtomicBool::new(false));
        let (log, over) = (Arc::clone(&requests), Arc::clone(&is_over));
        let acceptor = thread::spawn(move || {
            for connection in listener.incoming() {
                if over.load(Ordering::SeqCst) {
                    return;
                }
                let (answer, log) = (Arc::clone(&answer), Arc::clone(&log));
                // Ends when the client does, and clients end before their test.
                thread::spawn(move || connection.map(|stream| serve(stream, &*answer, &log)));
            }
        });
        Self { address, requests, is_over, acceptor: Some(acceptor) }
    }

    /// `127.0.0.1:PORT`, the registry's name in references.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// `METHOD PATH` of every request so far.
    pub fn requests(&self) -> Vec<String> {
        self.requests
            .lock()
            .unwrap()
            .iter()
            .map(|request| format!("{} {}", request.method, request.path))
            .collect()
    }
}

impl Drop for ScriptedRegistry {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::SeqCst);
        // Wakes the acceptor, which then sees that it is over.
        drop(TcpStream::connect(self.address));
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

/// Answers the requests of one connection until either side closes it.
fn serve(mut stream: TcpStream, answer: &Answer, log: &Mutex<Vec<Request>>) {
    if stream.set_read_timeout(Some(IDLE)).is_err() {
        return;
    }
    let Ok(input) = stream.try_clone() else { return };
    let mut input = BufReader::new(input);
    while let Some(request) = read_request(&mut input) {
        log.lock().unwrap().push(request.clone());
        let response = answer(&request);
        let mut head =
            format!("HTTP/1.1 {} Scripted\r\ncontent-length: {}\r\n", response.status, response.body.len());
        for (name, value) in &response.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        let body = if request.method == "HEAD" { &[] } else { &response.body[..response.sent] };
        let written = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
        if written.is_err() || response.sent < response.body.len() {
            return;
        }
    }
}

fn read_request(input: &mut impl BufRead) -> Option<Request> {
    let mut line = String::new();
    input.read_line(&mut line).ok()?;
    let mut words = line.split_whitespace();
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        input.read_line(&mut line).ok()?;
        match line.trim_end().split_once(':') {
            Some((name, value)) => headers.push((name.to_lowercase(), value.trim().to_owned())),
            None => {
                return Some(Request { method, path, headers });
            }
        }
    }
}
