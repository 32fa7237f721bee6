//! Where Redis is and how it is come to: its address, and the certificates that its TLS asks for. The files are read again for
//! each new connection, so that certificates are replaced without a restart.

use std::fmt;
use std::path::{Path, PathBuf};

use deadpool::managed;
use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, ConnectionInfo, ErrorKind, RedisError,
    RedisResult, TlsCertificates,
};

/// The files of TLS, PEM. All are for `rediss://` alone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// Those who may vouch for Redis; `None`: the usual public ones.
    pub ca: Option<PathBuf>,
    /// What this node shows for itself, where Redis asks.
    pub client: Option<ClientFiles>,
}

/// A node's own certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientFiles {
    /// The certificate, followed by those between it and the CA.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// A file that is of no use for TLS.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {reason}", path.display())]
pub struct UselessFile {
    /// Which.
    pub path: PathBuf,
    reason: String,
}

impl TlsFiles {
    /// Whether there are any.
    pub(super) const fn is_none(&self) -> bool {
        self.ca.is_none() && self.client.is_none()
    }

    /// Somebody who connects, with the certificates as they are just now.
    ///
    /// # Errors
    ///
    /// A file that can't be read, or an address that is none.
    pub fn client(&self, address: ConnectionInfo) -> RedisResult<Client> {
        if self.is_none() {
            return Client::open(address);
        }
        let certificates = self.read().map_err(|useless| {
            RedisError::from((ErrorKind::InvalidClientConfig, "TLS", useless.to_string()))
        })?;
        Client::build_with_tls(address, certificates)
    }

    /// Reads them all.
    ///
    /// # Errors
    ///
    /// The first that can't be read, or holds nothing of its kind.
    pub fn read(&self) -> Result<TlsCertificates, UselessFile> {
        let root_cert = match &self.ca {
            Some(path) => Some(read(path, "CERTIFICATE-----")?),
            None => None,
        };
        let client_tls = match &self.client {
            Some(files) => Some(ClientTlsConfig {
                client_cert: read(&files.certificate, "CERTIFICATE-----")?,
                client_key: read(&files.key, "PRIVATE KEY-----")?,
            }),
            None => None,
        };
        Ok(TlsCertificates {
            client_tls,
            root_cert,
        })
    }
}

/// A few small files of this machine's, once for each connection: nothing to leave the task for.
fn read(path: &Path, kind: &str) -> Result<Vec<u8>, UselessFile> {
    let useless = |reason: String| UselessFile {
        path: path.to_owned(),
        reason,
    };
    let text = std::fs::read(path).map_err(|error| useless(error.to_string()))?;
    let begins = |line: &[u8]| line.starts_with(b"-----BEGIN ") && line.ends_with(kind.as_bytes());
    if text
        .split(|byte| *byte == b'\n')
        .any(|line| begins(line.trim_ascii()))
    {
        Ok(text)
    } else {
        Err(useless(format!(
            "holds no PEM of the kind {}",
            kind.trim_end_matches('-')
        )))
    }
}

/// Makes connections, for the pool and for the link.
pub(super) struct Door {
    address: ConnectionInfo,
    tls: TlsFiles,
    timing: AsyncConnectionConfig,
    /// Tries a connection before it is used again.
    tester: deadpool_redis::Manager,
}

impl fmt::Debug for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Door")
            .field("tls", &self.tls)
            .finish_non_exhaustive()
    }
}

impl Door {
    pub(super) fn new(
        address: ConnectionInfo,
        tls: TlsFiles,
        timing: AsyncConnectionConfig,
    ) -> RedisResult<Self> {
        Ok(Self {
            tester: deadpool_redis::Manager::new_with_config(address.clone(), timing.clone())?,
            address,
            tls,
            timing,
        })
    }

    /// Somebody who connects, with the certificates as they are just now.
    pub(super) fn client(&self, protocol: redis::ProtocolVersion) -> RedisResult<Client> {
        // Nobody needs to know which library this is, and a user of Redis one right less.
        let settings = self.address.redis_settings().clone();
        let settings = settings.set_protocol(protocol).set_skip_set_lib_name();
        let address = self.address.clone().set_redis_settings(settings);
        self.tls.client(address)
    }
}

impl managed::Manager for Door {
    type Type = MultiplexedConnection;
    type Error = RedisError;

    async fn create(&self) -> RedisResult<MultiplexedConnection> {
        let client = self.client(redis::ProtocolVersion::RESP2)?;
        // With TLS it is large, seldom needed, and part of the way of every command.
        Box::pin(client.get_multiplexed_async_connection_with_config(&self.timing)).await
    }

    async fn recycle(
        &self,
        connection: &mut MultiplexedConnection,
        metrics: &managed::Metrics,
    ) -> managed::RecycleResult<RedisError> {
        managed::Manager::recycle(&self.tester, connection, metrics).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_another_kind_is_named() {
        let folder =
            std::env::temp_dir().join(format!("gateway-door-{:016x}", rand::random::<u64>()));
        std::fs::create_dir(&folder).expect("a folder");
        let file = |name: &str, text: &str| {
            let path = folder.join(name);
            std::fs::write(&path, text).expect("a file");
            path
        };
        let key = file("key.pem", "-----BEGIN PRIVATE KEY-----\n");
        let certificate = file("tls.pem", "-----BEGIN CERTIFICATE-----\r\n");
        let told = |tls: TlsFiles| tls.read().expect_err("a useless file").to_string();
        let ca = |path: &Path| TlsFiles {
            ca: Some(path.to_owned()),
            client: None,
        };
        assert!(told(ca(&key)).ends_with("key.pem: holds no PEM of the kind CERTIFICATE"));
        assert!(told(ca(&folder.join("none"))).contains("none: No such file"));
        let client = |certificate: &Path, key: &Path| TlsFiles {
            ca: None,
            client: Some(ClientFiles {
                certificate: certificate.to_owned(),
                key: key.to_owned(),
            }),
        };
        assert!(told(client(&certificate, &certificate)).contains("kind PRIVATE KEY"));
        assert!(client(&certificate, &key).read().is_ok());
        std::fs::remove_dir_all(folder).expect("its end");
    }
}
