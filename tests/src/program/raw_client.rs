//! A raw client connection, and what it receives, byte by byte.

use serde_json::Value;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// All bytes that the clients of a server have received.
pub type ReceivedBytes = Arc<Mutex<Vec<u8>>>;

/// The longest that a test waits for anything.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A connection to a server.
pub struct RawConnection {
    stream: TcpStream,
    buffer: Vec<u8>,
    heard: ReceivedBytes,
}

/// A response.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Response {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// The slug of its problem, if it is one, such as `body-timeout`.
    pub fn problem(&self) -> String {
        let body: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        let kind = body["type"].as_str().unwrap_or_default();
        kind.trim_start_matches("urn:kvasm:problem:").to_owned()
    }

    /// Fails the test unless the response has this status and problem.
    #[track_caller]
    pub fn expect(self, status: u16, problem: &str) -> Response {
        assert_eq!(
            (self.status, self.problem().as_str()),
            (status, problem),
            "{}\n{}",
            self.head,
            self.text()
        );
        self
    }

    #[track_caller]
    pub fn ok(self) -> Response {
        assert!(
            (200..300).contains(&self.status),
            "{}\n{}",
            self.head,
            self.text()
        );
        self
    }

    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

/// A raw request. `headers` are lines, each with its line ending.
pub fn request(method: &str, path: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n{headers}\r\n"
    );
    [head.as_bytes(), body].concat()
}

impl RawConnection {
    pub fn open(address: SocketAddr, heard: ReceivedBytes) -> RawConnection {
        RawConnection::try_open(address, heard).unwrap()
    }

    pub fn try_open(address: SocketAddr, heard: ReceivedBytes) -> std::io::Result<RawConnection> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(RawConnection {
            stream,
            buffer: Vec::new(),
            heard,
        })
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).unwrap();
    }

    /// Sends bytes. Returns false if the server has closed the connection.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        match self.stream.write_all(bytes.as_ref()) {
            Ok(()) => true,
            Err(e) if is_closed(&e) => false,
            Err(e) => panic!("{e}"),
        }
    }

    /// Closes the write side of the connection.
    pub fn shut_down_write(&mut self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }

    /// Reads up to `len` available bytes, if there are any.
    pub fn read_some(&mut self, len: usize) {
        self.stream.set_nonblocking(true).unwrap();
        let _ = self.stream.read(&mut vec![0; len]);
        self.stream.set_nonblocking(false).unwrap();
    }

    /// Reports whether data or the end of the stream arrives within `moment`.
    pub fn has_data(&mut self, moment: Duration) -> bool {
        self.stream.set_read_timeout(Some(moment)).unwrap();
        let peeked = uninterrupted(|| self.stream.peek(&mut [0]));
        self.stream.set_read_timeout(Some(PATIENCE)).unwrap();
        !matches!(peeked, Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut))
    }

    /// Waits until these bytes have arrived. They stay unread.
    pub fn wait_for(&mut self, bytes: &[u8]) {
        while find(&self.buffer, bytes).is_none() {
            assert!(self.fill(), "the connection ended first");
        }
    }

    /// Reads available data; false at the end of the stream. Fails the test if the server is
    /// silent for a minute.
    fn fill(&mut self) -> bool {
        let mut part = vec![0; 64 * 1024];
        match uninterrupted(|| self.stream.read(&mut part)) {
            Ok(0) => false,
            Ok(len) => {
                self.buffer.extend_from_slice(&part[..len]);
                self.heard.lock().unwrap().extend_from_slice(&part[..len]);
                true
            }
            Err(e) if is_closed(&e) => false,
            Err(e) => panic!("the server neither responds nor closes the connection: {e}"),
        }
    }

    /// Reads the next response; none if the connection ends first.
    pub fn answer(&mut self) -> Option<Response> {
        let end = loop {
            match find(&self.buffer, b"\r\n\r\n") {
                Some(at) => break at + 4,
                None if self.fill() => {}
                None => return None,
            }
        };
        let head: Vec<u8> = self.buffer.drain(..end).collect();
        let head = String::from_utf8(head).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let mut answer = Response {
            status,
            head,
            body: Vec::new(),
        };
        if status == 100 {
            return self.answer();
        }
        answer.body = self.body(&answer)?;
        Some(answer)
    }

    fn body(&mut self, answer: &Response) -> Option<Vec<u8>> {
        if let Some(length) = answer.header("content-length") {
            return self.take(length.parse().unwrap());
        }
        if answer.header("transfer-encoding") == Some("chunked") {
            return self.chunks();
        }
        if matches!(answer.status, 204 | 304) {
            return Some(Vec::new());
        }
        Some(self.rest())
    }

    fn chunks(&mut self) -> Option<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let part = self.chunk()?;
            if part.is_empty() {
                return Some(body);
            }
            body.extend(part);
        }
    }

    /// Reads the next chunk of a body; empty at its end.
    pub fn chunk(&mut self) -> Option<Vec<u8>> {
        let at = loop {
            match find(&self.buffer, b"\r\n") {
                Some(at) => break at,
                None if self.fill() => {}
                None => return None,
            }
        };
        let size = self.take(at + 2)?;
        let size = std::str::from_utf8(size.trim_ascii()).unwrap();
        let mut part = self.take(usize::from_str_radix(size, 16).unwrap() + 2)?;
        part.truncate(part.len() - 2);
        Some(part)
    }

    /// Reads `len` bytes; none if the connection ends first.
    fn take(&mut self, len: usize) -> Option<Vec<u8>> {
        while self.buffer.len() < len {
            if !self.fill() {
                return None;
            }
        }
        Some(self.buffer.drain(..len).collect())
    }

    /// Reads until the connection ends.
    pub fn rest(&mut self) -> Vec<u8> {
        while self.fill() {}
        std::mem::take(&mut self.buffer)
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|part| part == what)
}

fn is_closed(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::ConnectionAborted
    )
}

/// Retries an interrupted read. A read with a timeout on a socket returns EINTR after its
/// process was stopped and continued, even without a signal handler (signal(7)).
fn uninterrupted(mut read: impl FnMut() -> std::io::Result<usize>) -> std::io::Result<usize> {
    loop {
        match read() {
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}
