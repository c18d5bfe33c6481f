//! The recorder.

use std::net::TcpListener;
use std::process::Command;

use rawtcp_lab::capture::{Capture, CaptureOptions};
use rawtcp_lab::topology::{INTERFACE, Pair, SERVER_V4, SERVER_V6};

use super::{PATIENCE, Result, echo};

pub(crate) fn sees_the_handshake() -> Result {
    let pair = Pair::new()?;
    for to in [SERVER_V4, SERVER_V6] {
        let capture = Capture::start(&pair.server, INTERFACE)?;
        assert!(echo(&pair.client, &pair.server, to, 5000)?);
        let syn = capture.wait_for(PATIENCE, |segment| segment.flags.syn()).ok_or("no SYN")?;
        assert!(!syn.outgoing && !syn.flags.ack() && syn.dst.ip() == to && syn.payload_len == 0, "{syn:?}");
        let recording = capture.stop()?;
        assert_eq!((recording.drops, recording.not_kept), (0, 0));
        let segments = recording.segments();
        let answer = segments.iter().find(|s| s.outgoing && s.flags.syn()).ok_or("no answer")?;
        assert_eq!((answer.ack, answer.dst), (syn.seq.wrapping_add(1), syn.src));
        let payload =
            |outgoing| -> usize { segments.iter().filter(|s| s.outgoing == outgoing).map(|s| s.payload_len).sum() };
        assert_eq!((payload(false), payload(true)), (5000, 5000));
        assert!(segments.iter().any(|s| s.flags.fin()) && !segments.iter().any(|s| s.flags.rst()));
        assert!(segments.windows(2).all(|s| s[0].time <= s[1].time));
    }
    // A closed port answers with a reset.
    let capture = Capture::start(&pair.client, INTERFACE)?;
    let closed = pair.server.run(|| TcpListener::bind((SERVER_V4, 0))?.local_addr())?;
    assert!(pair.client.run(|| std::net::TcpStream::connect(closed)).is_err());
    assert!(capture.stop()?.segments().iter().any(|s| s.flags.rst() && !s.outgoing && s.src == closed));
    Ok(())
}

pub(crate) fn writes_a_file() -> Result {
    let pair = Pair::new()?;
    let directory = std::env::temp_dir().join(format!("rawtcp-lab-{}", std::process::id()));
    std::fs::create_dir_all(&directory)?;
    let (live, later) = (directory.join("live.pcapng"), directory.join("later.pcapng"));
    let options = CaptureOptions { file: Some(live.clone()), ..CaptureOptions::default() };
    let capture = Capture::start_with(&pair.client, INTERFACE, options)?;
    assert!(echo(&pair.client, &pair.server, SERVER_V4, 1000)?);
    let recording = capture.stop()?;
    recording.write_pcapng(&later)?;
    for file in [&live, &later] {
        assert!(std::fs::metadata(file)?.len() > 1000);
        // Another program's opinion, where there is one: in a user namespace it fails to change its user.
        let output = Command::new("tcpdump").args(["-n", "-r"]).arg(file).arg("tcp").output();
        if let Some(output) = output.ok().filter(|output| output.status.success()) {
            let lines = String::from_utf8_lossy(&output.stdout).lines().count();
            assert_eq!(lines, recording.segments().len(), "{}", String::from_utf8_lossy(&output.stderr));
        }
    }
    std::fs::remove_dir_all(directory)?;
    Ok(())
}
