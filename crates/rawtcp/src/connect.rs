//! Active opens.

use crate::conn_cell::{After, ConnCell};
use crate::error;
use crate::host::{Hold, Host};
use crate::net::TcpStream;
use crate::stats::count;
use crate::sync::Arc;
use rawtcp_proto::stack::Claim;
use rawtcp_proto::{ConnConfig, Connection, FourTuple, Path};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::time::Duration;

/// The address that is really meant: loopback for "any", IPv4 for a mapped address. Says whether it was
/// mapped, as the addresses of such a stream are shown mapped too.
fn meant(addr: SocketAddr) -> (SocketAddr, bool) {
    let ip = addr.ip().to_canonical();
    let mapped = addr.is_ipv6() && ip.is_ipv4();
    let ip = match ip {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    let mut remote = SocketAddr::new(ip, addr.port());
    if let (SocketAddr::V6(remote), SocketAddr::V6(addr)) = (&mut remote, addr) {
        remote.set_scope_id(addr.scope_id());
    }
    (remote, mapped)
}

/// Link-local addresses of both ends carry the interface.
fn scoped(addr: SocketAddr, scope: u32) -> SocketAddr {
    match addr {
        SocketAddr::V6(addr) if scope != 0 && addr.ip().is_unicast_link_local() => {
            SocketAddrV6::new(*addr.ip(), addr.port(), 0, scope).into()
        }
        addr => addr,
    }
}

/// How a connection is opened.
#[derive(Debug)]
pub(crate) struct ConnectOptions {
    pub(crate) conn: Arc<ConnConfig>,
    pub(crate) linger: Option<Duration>,
    /// The address and port it is opened from.
    pub(crate) bound: Option<Hold>,
    /// The interface it is opened by.
    pub(crate) device: Option<String>,
}

impl Host {
    /// Those of `TcpStream::connect`.
    pub(crate) fn connect_options(&self) -> ConnectOptions {
        ConnectOptions { conn: self.settings.conn.clone(), linger: None, bound: None, device: None }
    }

    /// Opens a connection to one address. Dropping the future takes everything back.
    pub(crate) async fn connect(self: &Arc<Self>, addr: SocketAddr, options: ConnectOptions) -> io::Result<TcpStream> {
        let (remote, mapped) = meant(addr);
        let cell = self.begin_connect(remote, options)?;
        // From here on the stream's own `drop` cleans up.
        let stream = TcpStream::new(cell, mapped);
        stream.cell().connected().await?;
        Ok(stream)
    }

    /// Takes a four-tuple and sends the SYN.
    fn begin_connect(self: &Arc<Self>, remote: SocketAddr, options: ConnectOptions) -> io::Result<Arc<ConnCell>> {
        self.check_open()?;
        if !rawtcp_proto::is_unicast(remote.ip()) {
            // RFC 9293 §3.9.1.1 [MUST-46]: a local error, and the kernel's words.
            return Err(error::os(error::ENETUNREACH));
        }
        if remote.port() == 0 {
            return Err(error::os(error::ECONNREFUSED));
        }
        let ConnectOptions { conn, linger, bound, device: by } = options;
        let bound_ip = bound.as_ref().map(|hold| hold.local().ip().to_canonical()).filter(|ip| !ip.is_unspecified());
        let now = self.clock.now();
        let way = self.ways.route(&self.devices, now, remote, bound_ip, by.as_deref())?;
        let remote = scoped(remote, way.scope);
        let source = scoped(SocketAddr::new(way.source, 0), way.scope);
        let lane = way.lane;
        let (config, granted) = self.grant(lane.receives(), conn);
        let claim = |local| {
            let tuple = FourTuple::new(local, remote);
            let mut shard = self.shard(self.shard_of(&tuple));
            let isn = shard.isn(now, &tuple);
            let (iss, took_over) = match shard.claim(now, tuple) {
                Claim::Free => (isn, false),
                Claim::TimeWaitReuse(record) => (record.next_iss(isn), true),
                Claim::InUse => return None,
            };
            let ts_offset = shard.ts_offset(&tuple);
            let conn = Connection::connect(now, &config, tuple, iss, ts_offset, Path { mtu: way.mtu });
            let cell = ConnCell::new(self, conn, lane.clone(), granted, linger);
            shard.insert(tuple, cell.clone());
            Some((cell, took_over))
        };
        let cell = match &bound {
            Some(hold) => {
                let mut local = source;
                local.set_port(hold.local().port());
                self.ports.connect_bound(local, claim)
            }
            None => self.ports.connect(&self.devices, now, source, remote, claim),
        };
        let cell = cell.inspect_err(|_| self.budget.release(granted))?;
        count(&self.counters.connects, 1);
        let mut after = After::default();
        cell.settle(&mut cell.lock(), now, &mut after);
        cell.finish(after);
        Ok(cell)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_means_loopback_and_mapped_means_ipv4() {
        let table = [
            ("0.0.0.0:80", "127.0.0.1:80", false),
            ("[::]:80", "[::1]:80", false),
            ("[::ffff:10.0.0.1]:80", "10.0.0.1:80", true),
            ("[::ffff:0.0.0.0]:80", "127.0.0.1:80", true),
            ("[fe80::1%7]:80", "[fe80::1%7]:80", false),
        ];
        for (addr, expected, mapped) in table {
            assert_eq!(meant(addr.parse().unwrap()), (expected.parse().unwrap(), mapped), "{addr}");
        }
    }
}
