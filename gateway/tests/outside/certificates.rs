//! A certificate authority of a test's own, and what it vouches for. No assertions here.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

/// Files that are gone with it.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        let name = format!("chat-test-outside-{:016x}", rand::random::<u64>());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Somebody who vouches.
pub(crate) struct Authority {
    /// Its own certificate, PEM.
    pub(crate) pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key, PEM.
pub(crate) struct Pair {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self {
            pem,
            issuer: Issuer::new(params, key),
        }
    }

    /// Vouches for somebody under these names.
    pub(crate) fn vouch_for(&self, names: &[&str]) -> Pair {
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params
            .distinguished_name
            .push(DnType::CommonName, "somebody of the tests");
        Pair {
            certificate: params.signed_by(&key, &self.issuer).unwrap().pem(),
            key: key.serialize_pem(),
        }
    }
}

/// A server's files, for its options.
pub(crate) struct ServerFiles {
    pub(crate) folder: Folder,
}

impl ServerFiles {
    pub(crate) fn new(authority: &Authority, names: &[&str]) -> Self {
        let folder = Folder::new();
        let pair = authority.vouch_for(names);
        folder.write("ca.pem", &authority.pem);
        folder.write("server.pem", &pair.certificate);
        folder.write("server-key.pem", &pair.key);
        Self { folder }
    }

    /// An option that names one of them.
    pub(crate) fn option(&self, option: &str, file: &str) -> [String; 2] {
        [option.to_owned(), shown(&self.folder.path(file))]
    }
}

pub(crate) fn shown(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}
