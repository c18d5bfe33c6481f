//! IP packets in and out of the machine.
//!
//! This crate knows nothing of TCP's state nor of any async runtime. It moves whole IP packets between the caller and
//! a *device* ([`PacketIo`]): raw IP sockets, ICMP error sockets, AF_PACKET sockets, a TUN interface, an in-memory pair, the in-process
//! loopback switch. It also holds what a user-space TCP needs from the kernel beside packets: a guard that reserves a port
//! and keeps the kernel silent on it, routes and neighbours, a microsecond timer, packet capture and network namespaces.
//!
//! The system calls of these devices, with their `unsafe`, live in `sys.rs`; a module for tools that needs some of its
//! own says so at its top.
#![deny(unsafe_code)]

#[cfg(not(target_os = "linux"))]
compile_error!("rawtcp runs on Linux only: it needs raw IP sockets, classic BPF filters, timerfd and sock_diag");

pub mod afpacket_raw;
pub mod capture;
pub mod diag;
pub mod ethtool;
pub mod ingress;
pub mod mem;
pub mod netns;
pub mod network;
pub mod pacing;
pub mod route;
pub mod timer;
pub mod wait;

mod batch;
mod broadcast;
mod filter;
mod guard;
mod icmp;
mod packet;
mod packet_io;
mod ports;
mod privileges;
mod raw_ip;
mod sys;
mod tun;
mod vnet;
mod wake;

pub use batch::{OWNED_MIN, RX_SLOT_SIZE, RxBatch};
pub use guard::{Guard, GuardRequest};
pub use icmp::{IcmpV4, IcmpV6};
pub use packet::{PacketConfig, PacketDevice};
pub use packet_io::{
    Capabilities, Drained, PacketIo, ReadySource, RxChecksum, RxHeader, RxMeta, SendError, TxChecksum, TxPacket,
};
pub use ports::PortSet;
pub use privileges::MissingPrivilege;
pub use raw_ip::{MAX_EXCEPT, RawConfig, RawIpV4, RawIpV6};
pub use tun::{TunConfig, TunDevice};
pub use wake::WakeSlot;
