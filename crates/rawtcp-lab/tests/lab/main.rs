//! The laboratory against the kernel itself: what it builds must behave as it says, before anything else is measured in
//! it.

mod bench;
mod capture;
mod emulator;
mod goodput;
mod namespaces;

use std::net::IpAddr;
use std::time::Duration;

use rawtcp_lab::netns::Namespace;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Long enough for a busy machine: it bounds a hang, it measures nothing.
const PATIENCE: Duration = Duration::from_secs(60);

/// Kernel to kernel: the client sends `length` bytes, the server echoes them. Whether all came back as they were.
fn echo(client: &Namespace, server: &Namespace, to: IpAddr, length: usize) -> Result<bool> {
    let (send_port, port) = std::sync::mpsc::channel();
    let serving = server.spawn_tokio(async move || -> Result {
        let listener = TcpListener::bind((to, 0)).await?;
        send_port.send(listener.local_addr()?.port())?;
        let (stream, _) = tokio::time::timeout(PATIENCE, listener.accept()).await??;
        let (mut read, mut write) = stream.into_split();
        tokio::time::timeout(PATIENCE, tokio::io::copy(&mut read, &mut write)).await??;
        Ok(())
    });
    let port = port.recv_timeout(PATIENCE)?;
    let sent: Vec<u8> = (0..length).map(|n| (n % 251) as u8).collect();
    let expected = sent.clone();
    let asking = client.spawn_tokio(async move || -> Result<Vec<u8>> {
        let connecting = TcpStream::connect((to, port));
        let (mut read, mut write) = tokio::time::timeout(PATIENCE, connecting).await??.into_split();
        let writing = tokio::spawn(async move {
            write.write_all(&sent).await?;
            write.shutdown().await
        });
        let mut back = Vec::new();
        tokio::time::timeout(PATIENCE, read.read_to_end(&mut back)).await??;
        writing.await??;
        Ok(back)
    });
    let back = asking.join()?;
    serving.join()?;
    Ok(back == expected)
}

rawtcp_lab::privileged_tests!(
    namespaces::are_separate,
    namespaces::tasks_and_programs_run_inside,
    namespaces::vanish_with_their_last_user,
    namespaces::pair_talks_both_families,
    namespaces::routed_hosts_talk_through_the_router,
    namespaces::offloads_and_mtu_can_be_set,
    emulator::delay_is_what_was_asked,
    emulator::every_impairment_and_all_bytes_arrive,
    emulator::offloads_kept_are_finished,
    emulator::corruption_is_noticed_by_the_kernel,
    emulator::links_can_be_changed,
    capture::sees_the_handshake,
    capture::writes_a_file,
    bench::compares_both_stacks,
    bench::says_what_is_wrong,
    bench::stays_in_one_process,
    bench::goes_over_tun => rawtcp_lab::harness::tun_device,
    goodput::compares_on_one_link_and_goes_on_from_a_file,
);
