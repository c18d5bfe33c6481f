//! Everything works as an ordinary user too, inside a user namespace. No test harness: the process must still have one
//! thread only when it enters the namespace.

use std::net::{Ipv4Addr, SocketAddr};

use rawtcp_io::{Guard, GuardRequest, PacketIo, PortSet, RawConfig, RawIpV4, RawIpV6, netns};

fn main() {
    if let Err(error) = netns::unshare_user_namespace() {
        eprintln!("\n*** SKIPPED user_namespace: user namespaces are not permitted here ({error}) ***\n");
        return;
    }
    let result = netns::run_in_new_namespace(|| {
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let guard = Guard::bind(&GuardRequest { addr, v6only: false, device: None }).unwrap();
        let ports: PortSet = [guard.local_addr().port()].into_iter().collect();
        let v4 = RawIpV4::open(&RawConfig::default()).unwrap();
        let v6 = RawIpV6::open(&RawConfig::default()).unwrap();
        for device in [&v4 as &dyn PacketIo, &v6] {
            device.set_ports(&ports).unwrap();
            // SO_RCVBUFFORCE is refused here, so it depends on rmem_max what is given; but some of it is.
            assert!((128 << 10..=8 << 20).contains(&device.recv_queue_bytes()), "{}", device.recv_queue_bytes());
        }
        println!("user_namespace: ok, receive queue {} bytes", v4.recv_queue_bytes());
    });
    result.unwrap();
}
