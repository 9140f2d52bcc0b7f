//! A file that is closed, opened, torn and held.

use super::*;
use crate::auth::RevocationTarget;

fn order(number: u64) -> Revocation {
    let until = clock::system().plus(Duration::from_mins(10));
    Revocation {
        whom: RevocationTarget::Session(format!("{number:032x}")),
        at: Timestamp(1),
        until,
    }
}

async fn orders(file: &FileStore) -> Vec<Revocation> {
    match file.follow(&LogPosition::default()).await.unwrap() {
        LogRead::Next { orders, .. } => orders,
        LogRead::Reset => panic!("another log"),
    }
}

/// The thread lets go of a file a moment after its last owner.
async fn open(path: &Path) -> FileStore {
    loop {
        match FileStore::open(path) {
            Err(FileStoreError::InUse(_)) => tokio::time::sleep(Duration::from_millis(5)).await,
            opened => return opened.unwrap(),
        }
    }
}

#[tokio::test]
async fn what_was_acknowledged_is_there_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let (minute, file) = (Duration::from_mins(1), open(&path).await);
    file.put("a", b"1".to_vec(), minute).await.unwrap();
    file.put("gone", b"1".to_vec(), Duration::ZERO).await.unwrap();
    assert_eq!(file.put_new("a", b"2".to_vec(), minute).await, Ok(false));
    assert_eq!(file.put_new("b", b"3".to_vec(), minute).await, Ok(true));
    assert_eq!(file.take("b").await, Ok(Some(b"3".to_vec())));
    file.revoke(&[order(1), order(2)]).await.unwrap();
    let LogRead::Next { mark, .. } = file.follow(&LogPosition::default()).await.unwrap() else {
        panic!()
    };
    file.revoke(&[order(3)]).await.unwrap();
    let LogRead::Next { orders: more, .. } = file.follow(&mark).await.unwrap() else { panic!() };
    assert_eq!(more.len(), 1, "from where it was left");
    assert!(matches!(FileStore::open(&path), Err(FileStoreError::InUse(_))));
    drop(file);

    let file = open(&path).await;
    assert_eq!(file.get("a").await, Ok(Some(b"1".to_vec())));
    assert_eq!((file.get("b").await, file.get("gone").await), (Ok(None), Ok(None)));
    let found: Vec<RevocationTarget> =
        orders(&file).await.into_iter().map(|order| order.whom).collect();
    assert_eq!(found, [1, 2, 3].map(|number| order(number).whom));
}

#[tokio::test]
async fn many_at_once_share_their_transactions() {
    let folder = tempfile::tempdir().unwrap();
    let file = Arc::new(open(&folder.path().join("store")).await);
    let mut tasks = Vec::new();
    for number in 0..500 {
        let file = Arc::clone(&file);
        tasks.push(tokio::spawn(async move { file.revoke(&[order(number)]).await }));
    }
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    assert_eq!(orders(&file).await.len(), 500);
}

#[tokio::test]
async fn a_torn_file_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let file = open(&path).await;
    let many: Vec<Revocation> = (0..2_000).map(order).collect();
    file.revoke(&many).await.unwrap();
    drop(file);
    drop(open(&path).await);
    tokio::time::sleep(Duration::from_millis(50)).await;
    let whole = std::fs::read(&path).unwrap();
    let half = whole.len() / 2;
    let mut overwritten = whole.clone();
    overwritten[4_096..half].fill(0);
    let torn: [&[u8]; 4] = [&[], &whole[..half], b"not a store of ours at all", &overwritten];
    for (number, torn) in torn.into_iter().enumerate() {
        std::fs::write(&path, torn).unwrap();
        let refused = FileStore::open(&path).expect_err("it starts from nothing").to_string();
        assert!(refused.contains("start fresh"), "{number}: {refused}");
        assert!(std::fs::read(&path).unwrap().len() >= torn.len(), "{number}: it was cut");
    }
    std::fs::write(&path, &whole).unwrap();
    assert_eq!(orders(&open(&path).await).await.len(), 2_000);
}

#[tokio::test]
async fn serialized_tables_of_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let file = open(&path).await;
    file.put("refresh/wx1/o1", b"sealed".to_vec(), Duration::from_mins(1)).await.unwrap();
    let until = Timestamp(clock::system().0 + 600);
    let order = Revocation { whom: RevocationTarget::All, at: Timestamp(1), until };
    file.revoke(&[order]).await.unwrap();
    drop(file);
    drop(open(&path).await); // the thread of the first has let go of it
    let database = loop {
        match Database::open(&path) {
            Err(DatabaseError::DatabaseAlreadyOpen) => tokio::task::yield_now().await,
            opened => break opened.unwrap(),
        }
    };
    let reading = database.begin_read().unwrap();
    let values: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("values.1");
    let orders: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("orders.1");
    let values = reading.open_table(values).unwrap();
    let stored = values.get("refresh/wx1/o1").unwrap().unwrap();
    let (expiry, value) = stored.value().split_at(8);
    let expiry = u64::from_be_bytes(expiry.try_into().unwrap());
    assert_eq!(value, b"sealed");
    assert!((until.0 - 600..until.0).contains(&expiry), "{expiry}");
    let order = reading.open_table(orders).unwrap().get(0).unwrap().unwrap().value().to_vec();
    let recorded = format!(r#"{{"whom":"all","at":1,"until":{}}}"#, until.0);
    assert_eq!(String::from_utf8(order).unwrap(), recorded);
}
