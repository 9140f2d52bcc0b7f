//! The way to a Redis, whichever of the three kinds it is.

use std::time::Duration;

use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, FromRedisValue, IntoConnectionInfo,
    Pipeline, RedisResult, TlsCertificates, TlsMode, Value,
    aio::MultiplexedConnection,
    cluster::ClusterClient,
    cluster_async::ClusterConnection,
    sentinel::{SentinelClient, SentinelClientBuilder, SentinelServerType},
};
use tokio::sync::Mutex;

use crate::{
    secret::Secret,
    store::{RedisAddress, RedisSettings},
};

/// A server that does not take a connection in this time is passed over.
const CONNECT: Duration = Duration::from_secs(1);
/// Anything we ask is answered within a millisecond by a server that is well.
const RESPONSE: Duration = Duration::from_millis(500);

/// How connections are made.
pub enum RedisConnector {
    One(Client),
    /// One client to connect, and one to look whether the master is still the same.
    Sentinels(Box<[Mutex<SentinelClient>; 2]>),
    Cluster(ClusterClient),
}

/// A connection that many may use at once.
pub enum RedisConnection {
    Plain(MultiplexedConnection),
    /// To the master at an address that sentinels named.
    Master(MultiplexedConnection, ConnectionAddr),
    Cluster(Box<ClusterConnection>),
}

impl RedisConnection {
    /// Sends a command and reads its answer.
    pub async fn ask<T: FromRedisValue>(&self, command: &Cmd) -> RedisResult<T> {
        match self {
            Self::Plain(connection) | Self::Master(connection, _) => {
                command.query_async(&mut connection.clone()).await
            }
            Self::Cluster(connection) => {
                command.query_async(&mut ClusterConnection::clone(connection)).await
            }
        }
    }

    /// Sends several commands at once and reads the response to each. The pipeline has to ignore
    /// errors, so that each command has its own.
    pub async fn ask_all(&self, commands: &Pipeline) -> RedisResult<Vec<RedisResult<Value>>> {
        match self {
            Self::Plain(connection) | Self::Master(connection, _) => {
                commands.query_async(&mut connection.clone()).await
            }
            Self::Cluster(connection) => {
                commands.query_async(&mut ClusterConnection::clone(connection)).await
            }
        }
    }
}

impl RedisConnector {
    pub fn new(remote: &RedisSettings) -> RedisResult<Self> {
        match &remote.place {
            RedisAddress::Url(url) => one(url.expose(), remote).map(Self::One),
            RedisAddress::Sentinels { addresses, master, username, password } => {
                let client = || sentinels((addresses, master), (username, password), remote);
                Ok(Self::Sentinels(Box::new([Mutex::new(client()?), Mutex::new(client()?)])))
            }
            RedisAddress::Cluster(nodes) => cluster(nodes, remote).map(Self::Cluster),
        }
    }

    pub async fn connect(&self) -> RedisResult<RedisConnection> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT))
            .set_response_timeout(Some(RESPONSE));
        match self {
            Self::One(client) => {
                let connection = client.get_multiplexed_async_connection_with_config(&config);
                connection.await.map(RedisConnection::Plain)
            }
            Self::Sentinels(clients) => {
                let [client, _] = &**clients;
                let master = client.lock().await.async_get_client().await?;
                let address = master.get_connection_info().addr().clone();
                let connection = master.get_multiplexed_async_connection_with_config(&config);
                Ok(RedisConnection::Master(connection.await?, address))
            }
            Self::Cluster(client) => {
                let connection = client.get_async_connection().await?;
                Ok(RedisConnection::Cluster(Box::new(connection)))
            }
        }
    }

    pub fn is_cluster(&self) -> bool {
        matches!(self, Self::Cluster(_))
    }

    /// Whether the sentinels name a master that this connection does not lead to. Their silence
    /// says nothing.
    pub async fn names_another(&self, connection: &RedisConnection) -> bool {
        let (Self::Sentinels(clients), RedisConnection::Master(_, address)) = (self, connection)
        else {
            return false;
        };
        let [_, client] = &**clients;
        let master = client.lock().await.async_get_client().await;
        master.is_ok_and(|master| master.get_connection_info().addr() != address)
    }
}

fn one(url: &str, remote: &RedisSettings) -> RedisResult<Client> {
    let info = url.into_connection_info()?;
    let mut redis = info.redis_settings().clone();
    if let Some(username) = &remote.username {
        redis = redis.set_username(username);
    }
    if let Some(password) = &remote.password {
        redis = redis.set_password(password.expose());
    }
    let info = info.set_redis_settings(redis);
    match (certificates(remote), info.addr()) {
        (Some(certificates), ConnectionAddr::TcpTls { .. }) => {
            Client::build_with_tls(info, certificates)
        }
        (_, _) => Client::open(info),
    }
}

fn sentinels(
    (addresses, master): (&[(String, u16)], &str),
    (username, password): (&Option<String>, &Option<Secret>),
    remote: &RedisSettings,
) -> RedisResult<SentinelClient> {
    let nodes = addresses.iter().map(|(host, port)| ConnectionAddr::Tcp(host.clone(), *port));
    let mut builder = SentinelClientBuilder::new(nodes, master, SentinelServerType::Master)?;
    if let Some(username) = &remote.username {
        builder = builder.set_client_to_redis_username(username);
    }
    if let Some(password) = &remote.password {
        builder = builder.set_client_to_redis_password(password.expose());
    }
    if let Some(username) = username {
        builder = builder.set_client_to_sentinel_username(username);
    }
    if let Some(password) = password {
        builder = builder.set_client_to_sentinel_password(password.expose());
    }
    if remote.tls {
        builder = builder.set_client_to_redis_tls_mode(TlsMode::Secure);
    }
    if let Some(certificates) = certificates(remote) {
        builder = builder.set_client_to_redis_certificates(certificates);
    }
    builder.build()
}

fn cluster(nodes: &[(String, u16)], remote: &RedisSettings) -> RedisResult<ClusterClient> {
    let scheme = if remote.tls { "rediss" } else { "redis" };
    let bracketed = |host: &str| if host.contains(':') { format!("[{host}]") } else { host.into() };
    let nodes = nodes.iter().map(|(host, port)| format!("{scheme}://{}:{port}", bracketed(host)));
    let mut builder = ClusterClient::builder(nodes)
        .retries(2)
        .connection_timeout(CONNECT)
        .response_timeout(RESPONSE);
    if let Some(username) = &remote.username {
        builder = builder.username(username);
    }
    if let Some(password) = &remote.password {
        builder = builder.password(password.expose());
    }
    if remote.tls {
        builder = builder.tls(TlsMode::Secure);
    }
    if let Some(certificates) = certificates(remote) {
        builder = builder.certs(certificates);
    }
    builder.build()
}

/// Without an authority of their own, the public ones are compiled in: reading the system's on
/// each connect takes tens of milliseconds.
fn certificates(remote: &RedisSettings) -> Option<TlsCertificates> {
    let root_cert = Some(remote.ca.clone()?);
    Some(TlsCertificates { client_tls: None, root_cert })
}
