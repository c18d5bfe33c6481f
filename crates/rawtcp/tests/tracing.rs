//! What `tracing` hears of a connection. Alone in its process: while there is one subscriber only, for one thread, it depends on
//! the thread that comes first whether a place in the code is ever heard of.

use rawtcp::{Device, Stack};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(20), what).await.expect("hangs")
}

/// A subscriber that keeps what it is told.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

impl std::io::Write for Lines {
    fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().push(String::from_utf8_lossy(text).into_owned());
        Ok(text.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn tracing_hears_it_too() {
    let lines = Lines::default();
    let out = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
        .with_ansi(false)
        .with_writer(move || out.clone())
        .finish();
    tracing::subscriber::with_default(subscriber, || {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
            let stack = Stack::builder().device(Device::Loopback).build().unwrap();
            let listener = stack.bind("127.0.0.1:0").await.unwrap();
            let addr = listener.local_addr().unwrap();
            let (client, accepted) = tokio::join!(stack.connect(addr), listener.accept());
            let (mut a, mut b) = (client.unwrap(), accepted.unwrap().0);
            soon(a.write_all(b"hello")).await.unwrap();
            soon(b.read_exact(&mut [0; 5])).await.unwrap();
            soon(a.shutdown()).await.unwrap();
            assert_eq!(soon(b.read(&mut [0])).await.unwrap(), 0);
        });
    });
    let lines = lines.0.lock().unwrap();
    let told = |text: &str| lines.iter().any(|line| line.contains("rawtcp::tcp") && line.contains(text));
    assert!(told("SYN-SENT to ESTABLISHED: syn_acked"), "{lines:#?}");
    assert!(told("ESTABLISHED to FIN-WAIT-1: local_close"), "{lines:#?}");
    assert!(told("cwnd"), "{lines:#?}");
}
