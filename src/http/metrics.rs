//! `/metrics`: numbers for Prometheus (OpenMetrics 1.0).

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use super::status::{Served, Status};

/// The type of what [`render`] gives.
pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

type Labels = Vec<(&'static str, String)>;
type Floats = Family<Labels, Gauge<f64, AtomicU64>>;

/// All numbers as they are now.
pub(super) fn render(status: &Status, served: Served) -> String {
    let mut registry = Registry::with_prefix("ssh_substituter");
    put_served(&mut registry, served);
    put_hosts(&mut registry, status);
    let transfers = Gauge::<i64>::default();
    transfers.set(i64::try_from(status.transfers.len()).unwrap_or(i64::MAX));
    registry.register("transfers", "Transfers from hosts that run", transfers);
    let readahead = Floats::default();
    for (kind, bytes) in [("held", status.readahead.0), ("limit", status.readahead.1)] {
        let gauge = readahead.get_or_create(&vec![("kind", kind.to_owned())]);
        gauge.set(bytes as f64);
    }
    let help = "Bytes of NARs in memory that clients have not asked for yet";
    registry.register_with_unit("readahead", help, Unit::Bytes, readahead);
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = encode(&mut text, &registry);
    text
}

fn put_served(registry: &mut Registry, served: Served) {
    let narinfos = Family::<Labels, Counter>::default();
    for (found, number) in [("yes", served.narinfos), ("no", served.narinfos_missing)] {
        let counter = narinfos.get_or_create(&vec![("found", found.to_owned())]);
        counter.inc_by(number);
    }
    registry.register("narinfos", "Paths that clients asked about", narinfos);
    let (nars, bytes) = (Counter::<u64>::default(), Counter::<u64>::default());
    nars.inc_by(served.nars);
    bytes.inc_by(served.bytes);
    registry.register("nars", "NARs whose delivery to a client began", nars);
    registry.register_with_unit("sent", "Bytes of NARs that clients got", Unit::Bytes, bytes);
}

fn put_hosts(registry: &mut Registry, status: &Status) {
    let (well, latency, connections) = (Floats::default(), Floats::default(), Floats::default());
    let (nar, wire) = (
        Family::<Labels, Counter>::default(),
        Family::<Labels, Counter>::default(),
    );
    for host in &status.hosts {
        let labels = vec![("host", host.name.clone())];
        well.get_or_create(&labels)
            .set(f64::from(u8::from(host.is_well)));
        if let Some(time) = host.latency {
            latency.get_or_create(&labels).set(time.as_secs_f64());
        }
        connections
            .get_or_create(&labels)
            .set(host.connections as f64);
        nar.get_or_create(&labels).inc_by(host.nar_bytes);
        wire.get_or_create(&labels).inc_by(host.wire_bytes);
    }
    registry.register("host_well", "1 for a host that is not known to fail", well);
    let help = "The shortest time in which a host has answered";
    registry.register_with_unit("host_latency", help, Unit::Seconds, latency);
    registry.register("host_connections", "Connections to a host", connections);
    let help = "Bytes of NARs that came from a host";
    registry.register_with_unit("host_received", help, Unit::Bytes, nar);
    let help = "Bytes that came over the wire for them";
    registry.register_with_unit("host_wire", help, Unit::Bytes, wire);
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::http::HostStatus;

    #[test]
    fn numbers_are_told_with_their_hosts() {
        let host = HostStatus {
            name: "ssh://a\"b".to_owned(),
            is_well: true,
            latency: Some(Duration::from_millis(20)),
            connections: 3,
            nar_bytes: 70,
            wire_bytes: 50,
            ..HostStatus::default()
        };
        let status = Status {
            hosts: vec![host],
            readahead: (1, 2),
            ..Status::default()
        };
        let served = Served {
            narinfos: 5,
            narinfos_missing: 6,
            nars: 7,
            bytes: 8,
        };
        let text = render(&status, served);
        for line in [
            "ssh_substituter_narinfos_total{found=\"yes\"} 5",
            "ssh_substituter_narinfos_total{found=\"no\"} 6",
            "ssh_substituter_nars_total 7",
            "ssh_substituter_sent_bytes_total 8",
            "ssh_substituter_transfers 0",
            "ssh_substituter_readahead_bytes{kind=\"limit\"} 2.0",
            "ssh_substituter_host_well{host=\"ssh://a\\\"b\"} 1.0",
            "ssh_substituter_host_latency_seconds{host=\"ssh://a\\\"b\"} 0.02",
            "ssh_substituter_host_received_bytes_total{host=\"ssh://a\\\"b\"} 70",
            "ssh_substituter_host_wire_bytes_total{host=\"ssh://a\\\"b\"} 50",
            "# EOF",
        ] {
            assert!(text.lines().any(|told| told == line), "{line}:\n{text}");
        }
    }
}
