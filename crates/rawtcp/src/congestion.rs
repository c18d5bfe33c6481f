//! Congestion controls by name: those built in, and those that the program has registered.

use crate::cc::{Algorithm, Factory};
use crate::error;
use crate::sync::{Mutex, lock};
use std::io;

static REGISTERED: Mutex<Vec<Factory>> = Mutex::new(Vec::new());

/// Makes a congestion control known by its name, in the whole process and for good: to
/// [`TcpStream::set_congestion`](crate::net::TcpStream::set_congestion),
/// [`TcpSocket::set_congestion`](crate::net::TcpSocket::set_congestion) and `RAWTCP_CONGESTION`, which is
/// read when the first stack of a runtime is made.
///
/// # Errors
/// `AlreadyExists` if there is one of that name.
pub fn register_congestion(factory: Factory) -> io::Result<()> {
    let mut registered = lock(&REGISTERED);
    if find(&registered, factory.name()).is_some() {
        return Err(error::os(error::EEXIST));
    }
    registered.push(factory);
    Ok(())
}

/// The one of this name; `NotFound` if there is none.
pub(crate) fn by_name(name: &str) -> io::Result<Factory> {
    find(&lock(&REGISTERED), name).ok_or_else(|| error::os(error::ENOENT))
}

/// All names there are.
pub(crate) fn names() -> Vec<&'static str> {
    let registered = lock(&REGISTERED);
    Algorithm::ALL.iter().map(|algorithm| algorithm.name()).chain(registered.iter().map(Factory::name)).collect()
}

fn find(registered: &[Factory], name: &str) -> Option<Factory> {
    match name.parse::<Algorithm>() {
        Ok(algorithm) => Some(algorithm.into()),
        Err(_) => registered.iter().find(|factory| factory.name() == name).cloned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cc::Reno;

    #[test]
    fn a_name_is_registered_once() {
        let own = || Factory::new("registered_once", |mss, iw| Box::new(Reno::new(mss, iw)));
        assert_eq!(by_name("registered_once").unwrap_err().kind(), io::ErrorKind::NotFound);
        register_congestion(own()).unwrap();
        assert_eq!(by_name("registered_once").unwrap().name(), "registered_once");
        assert_eq!(register_congestion(own()).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        let reno = Factory::new("reno", |mss, iw| Box::new(Reno::new(mss, iw)));
        assert_eq!(register_congestion(reno).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert!(names().contains(&"cubic") && names().contains(&"registered_once"));
    }
}
