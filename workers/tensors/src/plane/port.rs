//! How other processes reach a plane.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use data_link::DataServer;
use protocol::DataPort;

use super::Shared;
use crate::{error::whole, served::ServedPlane, socket};

/// Opens the port and the sockets, where the plane is to have any. What cannot be opened is not there.
pub(crate) async fn open(shared: &Arc<Shared>) {
    let Some(listen) = &shared.options.listen else { return };
    let key = shared.environment.random.hexadecimal();
    let address = bind(shared, listen, &key).await;
    let socket = open_sockets(shared, &key);
    if address.is_some() || socket.is_some() {
        let system = shared.system.clone().unwrap_or_default();
        let is_first = shared.port.set(DataPort { address, socket, system, key });
        debug_assert!(is_first.is_ok(), "a plane is opened once");
    }
}

async fn bind(shared: &Arc<Shared>, listen: &str, key: &str) -> Option<String> {
    match DataServer::bind(listen).await {
        Ok((server, address)) => {
            let served = Arc::new(ServedPlane(Arc::clone(shared)));
            shared.spawn("data port", server.serve(served, key.to_owned(), shared.ended.clone()));
            Some(told(address, shared.options.advertise.as_deref()))
        }
        Err(error) => {
            let error = whole(&error);
            tracing::error!(error, gpu_id = %shared.gpu_id, "the data port cannot be opened: other hosts do not reach the GPU's tensors; see data.listen");
            None
        }
    }
}

fn open_sockets(shared: &Arc<Shared>, key: &str) -> Option<String> {
    // Without a system nobody would know that it is a neighbour.
    shared.system.as_ref()?;
    let name = format!("gpufleet-data-{}", shared.environment.random.hexadecimal());
    match socket::open(shared, &name, key) {
        Ok(()) => Some(name),
        Err(error) => {
            tracing::error!(%error, gpu_id = %shared.gpu_id, "the data socket cannot be opened: other processes of the host use the data port");
            None
        }
    }
}

/// What others are told.
fn told(address: SocketAddr, advertise: Option<&str>) -> String {
    let host = match advertise {
        Some(host) => host.to_owned(),
        None if address.ip().is_unspecified() => host_name().unwrap_or_else(|| address.ip().to_string()),
        None => address.ip().to_string(),
    };
    match host.parse::<IpAddr>() {
        Ok(ip) => SocketAddr::new(ip, address.port()).to_string(),
        Err(_) => format!("{host}:{}", address.port()),
    }
}

fn host_name() -> Option<String> {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    Some(name.trim().to_owned()).filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_are_told_where_they_reach_it() {
        let told = |address: &str, advertise| told(address.parse().unwrap(), advertise);
        assert_eq!(told("127.0.0.1:81", None), "127.0.0.1:81");
        assert_eq!(told("0.0.0.0:81", Some("gpu-1")), "gpu-1:81");
        assert_eq!(told("0.0.0.0:81", Some("fd00::1")), "[fd00::1]:81");
        assert_eq!(told("[::1]:81", None), "[::1]:81");
        let all = told("0.0.0.0:81", None);
        assert!(!all.starts_with("0.0.0.0") && all.ends_with(":81"), "{all}");
    }
}
