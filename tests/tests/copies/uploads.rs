//! Copies in uploads of modules, and of modules loaded from a store.

use super::{LARGE, MIB, SERIAL, allocated_during, blocking, patient};
use kvasm_tests::guests::module;
use kvasm_tests::server::Server;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// The size of the custom section that makes a module large.
const PAD: usize = 8 * MIB;

/// Uploads a module with a large section at its end, without a large buffer. Returns the
/// response.
fn upload(address: SocketAddr, secret: &str, mut wasm: Vec<u8>) -> String {
    wasm.push(0);
    // The length of the section in LEB128, and its empty name.
    let mut len = PAD + 1;
    while len >= 0x80 {
        wasm.push(len as u8 | 0x80);
        len >>= 7;
    }
    wasm.extend([len as u8, 0]);
    let mut stream = TcpStream::connect(address).unwrap();
    let minute = Some(Duration::from_secs(60));
    stream.set_read_timeout(minute).unwrap();
    stream.set_write_timeout(minute).unwrap();
    let len = wasm.len() + PAD;
    let head = format!(
        "POST /v1/apps/app/plugins HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\
         Authorization: Bearer {secret}\r\nContent-Type: application/wasm\r\n\
         Content-Length: {len}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&wasm).unwrap();
    for _ in 0..PAD / (64 * 1024) {
        stream.write_all(&[0; 64 * 1024]).unwrap();
    }
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

async fn measured(server: &Server, wasm: Vec<u8>) -> usize {
    let (address, secret) = (server.address, server.root.secret().to_owned());
    let upload = move || upload(address, &secret, wasm);
    let (made, answer) = allocated_during(blocking(upload)).await;
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    made
}

fn answering(letter: char) -> Vec<u8> {
    let body = "(drop (call $output_write (i32.const 0) (i32.const 1))) (i32.const 0)";
    module(&letter.to_string(), body)
}

/// One buffer for the module, part of which is copied again as it arrives.
const MOST: usize = PAD + PAD / 8 + LARGE;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uploaded_module_is_copied_once() {
    let _alone = SERIAL.lock().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("kvasm.db");
    let servers = [
        Server::with(patient).await,
        Server::sqlite(&file, None, patient).await,
    ];
    for server in &servers {
        server.app("app", true).await;
        // Warms up: one-time allocations happen now.
        server.root.upload("app", answering('0')).await.expect(201);
        let made = measured(server, answering('1')).await;
        assert!(made <= MOST, "{made} bytes for {PAD}");
        assert!(made >= PAD, "{made} bytes: the copy was not counted");
        assert_eq!(server.root.call("app", "run", "").await.text(), "1");
    }
    let [_, first] = servers;
    let secret = first.root.secret().to_owned();
    assert!(first.stop().await);
    let second = Server::sqlite(&file, Some(secret), patient).await;
    second.deployed("another", answering('2')).await;
    second.root.call("another", "run", "").await.expect(200);
    let (made, answer) = allocated_during(second.root.call("app", "run", "")).await;
    assert_eq!(answer.expect(200).text(), "1");
    assert!(made <= MOST, "{made} bytes to load {PAD} from the store");
    assert!(made >= PAD, "{made} bytes: the copy was not counted");
}
