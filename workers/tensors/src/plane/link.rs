//! Data ports of other processes, as this one reaches them.

use std::time::Duration;

use data_link::{Client, ClientLimits, Dialled, LinkError, Wire};
use protocol::DataPort;
use tokio::net::UnixStream;

use super::Shared;
use crate::socket::address_of;

impl Shared {
    /// A client of a data port: by its socket where it is a neighbour's, else by its address. `answer` is how long it may take to answer.
    ///
    /// # Errors
    /// [`LinkError`].
    pub(crate) async fn client(&self, port: &DataPort, answer: Duration) -> Result<Client, LinkError> {
        let limits = ClientLimits { timeout: answer, stall: self.options.limits.stall, ..ClientLimits::default() };
        match &port.socket {
            Some(socket) if self.is_neighbour(port) => {
                let address = address_of(socket);
                let dial = move || -> Dialled {
                    let address = address.clone();
                    Box::pin(async move { Ok(Box::new(UnixStream::connect(address).await?) as Box<dyn Wire>) })
                };
                Client::dialling(dial, socket, &port.key, limits).await
            }
            _ => Client::connect(port, limits).await,
        }
    }
}
