//! Copies in calls over HTTP.

use super::{AT, LARGE, MIB, SERIAL, allocated_during, blocking, patient, read_input};
use kvasm_tests::guests::{manifest, module_with};
use kvasm_tests::server::Server;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// A body that writes the input as the output.
fn write_input() -> String {
    format!("(drop (call $output_write (i32.const {AT}) (local.get $n)))")
}

/// The byte at a position of a body.
fn byte(at: usize) -> u8 {
    (at % 251) as u8
}

/// Sends a request with a body of `len` bytes and reads the response, which must end with the
/// same bytes. Uses no large buffer itself. Returns the head of the response.
fn exchange(address: SocketAddr, head: &str, len: usize) -> String {
    const PART: usize = 64 * 1024;
    let mut stream = TcpStream::connect(address).unwrap();
    let minute = Some(Duration::from_secs(60));
    stream.set_read_timeout(minute).unwrap();
    stream.set_write_timeout(minute).unwrap();
    let head = format!("{head}\r\nHost: t\r\nConnection: close\r\nContent-Length: {len}\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    let mut part = vec![0; PART];
    for start in (0..len).step_by(PART) {
        let some = PART.min(len - start);
        for (at, to) in part[..some].iter_mut().enumerate() {
            *to = byte(start + at);
        }
        stream.write_all(&part[..some]).unwrap();
    }
    let mut first = Vec::new();
    while !first.windows(4).any(|four| four == b"\r\n\r\n") {
        let read = stream.read(&mut part[..1]).unwrap();
        assert_eq!(read, 1, "the response is truncated");
        first.push(part[0]);
    }
    let text = String::from_utf8(first).unwrap();
    let length = text.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("content-length")
            .then(|| value.parse::<usize>().unwrap())
    });
    let Some(length) = length.filter(|length| *length >= len) else {
        panic!("{text}");
    };
    // The input of an HTTP handler begins with a frame.
    let frame = length - len;
    let mut read = 0;
    loop {
        let some = stream.read(&mut part).unwrap();
        if some == 0 {
            break;
        }
        for at in (read..read + some).filter(|at| *at >= frame) {
            assert_eq!(part[at - read], byte(at - frame), "the byte at {at}");
        }
        read += some;
    }
    assert_eq!(read, length, "{text}");
    text
}

async fn measured(server: &Server, head: &'static str, len: usize) -> (usize, String) {
    let address = server.address;
    allocated_during(blocking(move || exchange(address, head, len))).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn call_copies_input_and_output_once_each() {
    let _alone = SERIAL.lock().await;
    let server = Server::with(patient).await;
    let body = [&read_input(), &write_input(), "(i32.const 0)"].join(" ");
    server.deployed("app", module_with("", "", &body)).await;
    let head = "POST /v1/apps/app/call/run HTTP/1.1";
    // Warms up: one-time allocations happen now.
    measured(&server, head, 1).await;
    let (made, answer) = measured(&server, head, 8 * MIB).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(
        made <= 16 * MIB,
        "{made} bytes for 8 MiB of input and 8 MiB of output"
    );
    assert!(
        made >= 15 * MIB,
        "{made} bytes: the copies were not counted"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_handler_request_is_copied_once_with_its_head() {
    const BODY: usize = 7 * MIB;
    let _alone = SERIAL.lock().await;
    let server = Server::with(patient).await;
    let head = r#"{"status":200}"#;
    let data: String = head.bytes().map(|byte| format!("\\{byte:02x}")).collect();
    let body = format!(
        "{} (drop (call $output_write (i32.const 0) (i32.const {}))) {} (i32.const 0)",
        read_input(),
        4 + head.len(),
        write_input()
    );
    let http = manifest(&[r#"{"kind":"http","name":"run"}"#]);
    let wasm = module_with(
        &format!("\\{:02x}\\00\\00\\00{data}", head.len()),
        &http,
        &body,
    );
    server.deployed("app", wasm).await;
    let head = "POST /a/app/x HTTP/1.1";
    measured(&server, head, 1).await;
    let (made, answer) = measured(&server, head, BODY).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let most = 2 * BODY + LARGE;
    assert!(
        made <= most,
        "{made} bytes for 7 MiB of input and 7 MiB of output"
    );
}
