//! What Prometheus reads. The only module that names `prometheus_client`.
