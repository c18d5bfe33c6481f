//! Congestion control by socket: by name, by a factory, by a boxed value on a live connection.

use rawtcp::cc::{
    AckSample, Algorithm, Carried, Congestion, CongestionControl, CongestionSample, Cubic, Duration, Factory, Instant,
};
use rawtcp::net::TcpSocket;
use rawtcp::{Device, Stack};
use std::io::ErrorKind;
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// A window that nothing changes.
#[derive(Debug)]
struct Fixed(u64);

impl CongestionControl for Fixed {
    fn name(&self) -> &'static str {
        "fixed"
    }
    fn on_ack(&mut self, _sample: &AckSample) {}
    fn on_congestion(&mut self, _event: Congestion, _sample: &CongestionSample) {}
    fn on_rto(&mut self, _sample: &CongestionSample) {}
    fn on_recovery_exit(&mut self, _now: Instant) {}
    fn on_spurious(&mut self) {}
    fn on_idle(&mut self, _now: Instant, _idle: Duration, _rto: Duration) {}
    fn on_mss(&mut self, _mss: u32) {}
    fn cwnd(&self) -> u64 {
        self.0
    }
    fn ssthresh(&self) -> u64 {
        u64::MAX
    }
    fn export(&self) -> Carried {
        Carried { cwnd: self.0, ssthresh: 777_777_777, ..Carried::default() }
    }
    fn import(&mut self, carried: Carried) {
        // To be seen from outside.
        self.0 = carried.cwnd + 1;
    }
}

fn fixed(window: u64) -> Factory {
    Factory::new("fixed", move |_, _| Box::new(Fixed(window)))
}

fn any() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

/// Both ends on a stack of their own that only this test has.
fn stack() -> Stack {
    Stack::builder().device(Device::Loopback).congestion(Algorithm::Reno).build().unwrap()
}

async fn pass(from: &mut rawtcp::net::TcpStream, to: &mut rawtcp::net::TcpStream, bytes: usize) {
    let data: Vec<u8> = (0..bytes).map(|i| (i * 7) as u8).collect();
    let mut got = vec![0; bytes];
    let (sent, read) = tokio::join!(from.write_all(&data), to.read_exact(&mut got));
    sent.unwrap();
    read.unwrap();
    assert!(got == data);
}

#[tokio::test]
async fn two_ends_of_a_connection_have_different_ones_and_others_than_the_stack() {
    let stack = stack();
    let server = stack.socket_v4();
    server.set_congestion_control(fixed(30_000)).unwrap();
    assert_eq!(server.congestion().unwrap(), "fixed");
    server.bind(any()).unwrap();
    let listener = server.listen(8).unwrap();
    let client = stack.socket_v4();
    client.set_congestion("bbr").unwrap();
    let (mut a, b) = tokio::join!(client.connect(listener.local_addr().unwrap()), listener.accept());
    let (a, mut b) = (a.as_mut().unwrap(), b.unwrap().0);
    assert_eq!((a.congestion().unwrap(), b.congestion().unwrap()), ("bbr", "fixed"));
    pass(a, &mut b, 500_000).await;
    pass(&mut b, a, 500_000).await;
    assert_eq!(b.tcp_info().snd_cwnd, 30_000);
    let other = stack.connect(listener.local_addr().unwrap()).await.unwrap();
    assert_eq!(other.congestion().unwrap(), "reno");
}

#[tokio::test]
async fn a_live_connection_changes_and_carries_its_state_over() {
    let stack = stack();
    let listener = stack.bind(any()).await.unwrap();
    let (a, b) = tokio::join!(stack.connect(listener.local_addr().unwrap()), listener.accept());
    let (mut a, mut b) = (a.unwrap(), b.unwrap().0);
    pass(&mut a, &mut b, 300_000).await;
    let before = a.tcp_info();
    assert_eq!((before.congestion, before.snd_ssthresh), ("reno", u64::MAX));
    a.set_congestion_control(Box::new(Fixed(0)));
    let own = a.tcp_info();
    assert_eq!((own.congestion, own.snd_cwnd), ("fixed", before.snd_cwnd + 1));
    pass(&mut a, &mut b, 300_000).await;
    a.set_congestion_control(Box::new(Cubic::new(1, 1)));
    let after = a.tcp_info();
    assert_eq!((after.congestion, after.snd_cwnd, after.snd_ssthresh), ("cubic", before.snd_cwnd + 1, 777_777_777));
    for name in ["bbr", "reno", "cubic"] {
        a.set_congestion(name).unwrap();
        assert_eq!(a.congestion().unwrap(), name);
        pass(&mut a, &mut b, 300_000).await;
    }
    assert_eq!(a.set_congestion("vegas").unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_registered_name_is_known_everywhere() {
    rawtcp::register_congestion(Factory::new("ours", |_, _| Box::new(Fixed(20_000)))).unwrap();
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_congestion("ours").unwrap();
    assert_eq!(socket.congestion().unwrap(), "ours");
    let again = rawtcp::register_congestion(Factory::new("ours", |_, _| Box::new(Fixed(1)))).unwrap_err();
    assert_eq!(again.kind(), ErrorKind::AlreadyExists);
    let stack = stack();
    let listener = stack.bind(any()).await.unwrap();
    let client = stack.socket_v4();
    client.set_congestion("ours").unwrap();
    let (a, b) = tokio::join!(client.connect(listener.local_addr().unwrap()), listener.accept());
    let (mut a, mut b) = (a.unwrap(), b.unwrap().0);
    pass(&mut a, &mut b, 200_000).await;
    assert_eq!(a.tcp_info().snd_cwnd, 20_000);
}
