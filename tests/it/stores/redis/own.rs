//! The store of the guide, over a connection of its user's.

use ::redis::aio::MultiplexedConnection;

use self::own_redis_store::OwnRedisStore;
use super::*;

#[path = "../../../../src/guide/own_redis_store.rs"]
#[expect(unreachable_pub, reason = "it is printed in the guide as it stands")]
mod own_redis_store;

#[tokio::test]
#[ignore = "needs redis-server; .ci/run runs it"]
async fn g21_the_store_of_the_guide_keeps_the_contract() {
    let server = RedisServer::start();
    let client = ::redis::Client::open(server.url()).expect("a good URL");
    let connection: MultiplexedConnection = client
        .get_multiplexed_async_connection()
        .await
        .expect("a connection");
    contract_suite(|| OwnRedisStore(connection.clone())).await;
    contract_suite(|| encrypted(OwnRedisStore(connection.clone()))).await;
}
