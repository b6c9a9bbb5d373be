//! TCP ports of the loopback interface for private servers, which stop and come back on the port that they had.
//!
//! A port that was merely free a moment ago can be given to the next server while its owner is down; whoever dials it then meets a stranger. So a server holds its port
//! for as long as it exists, whether it runs or not. Ports from the range that the kernel gives to clients are not used: a client that dials a closed one may meet itself.

use std::{
    net::{Ipv4Addr, TcpListener, UdpSocket},
    ops::Range,
};

/// A port on which nobody listens. Only a privileged program could.
pub const NOBODY: u16 = 1;

/// Below what the kernel gives to clients (32768), above what servers of a distribution use.
const RANGE: Range<u16> = 20_000..32_000;

/// A TCP port that no other test on this machine is given while this exists.
#[derive(Debug)]
pub struct ReservedPort {
    number: u16,
    /// The reservation is the UDP port of the same number: one socket in the whole machine can have it, and it is free again when its process ends, however that ends.
    _reservation: UdpSocket,
}

impl ReservedPort {
    /// Takes a port that nobody has reserved and on which nobody listens.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn take() -> Self {
        let first = rand::random_range(RANGE);
        let mut candidates = (first..RANGE.end).chain(RANGE.start..first);
        candidates.find_map(Self::try_take).expect("a free port")
    }

    fn try_take(number: u16) -> Option<Self> {
        let reservation = UdpSocket::bind((Ipv4Addr::LOCALHOST, number)).ok()?;
        // A program that knows nothing of reservations may listen there.
        TcpListener::bind((Ipv4Addr::LOCALHOST, number)).ok()?;
        Some(Self { number, _reservation: reservation })
    }

    /// The number.
    #[must_use]
    pub fn number(&self) -> u16 {
        self.number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_given_to_one_server_until_that_server_is_gone() {
        let first = ReservedPort::take();
        assert!(RANGE.contains(&first.number()));
        assert!(ReservedPort::try_take(first.number()).is_none(), "its owner may be down and come back");
        let number = first.number();
        drop(first);
        assert!(ReservedPort::try_take(number).is_some());
    }

    #[test]
    fn a_port_on_which_somebody_listens_is_not_given() {
        let number = ReservedPort::take().number();
        let _listener = TcpListener::bind((Ipv4Addr::LOCALHOST, number)).unwrap();
        assert!(ReservedPort::try_take(number).is_none());
    }
}
