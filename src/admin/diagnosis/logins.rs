//! Sessions that are refused and logins that are lost. Pure.

use super::{Bilingual, DiagnosisInput, Finding, FindingSeverity, MIN_REFUSALS, count, finding};

/// Logins that began and of which some should have come back.
const MIN_LOGINS: u64 = 5;

pub fn sessions_are_refused(facts: &DiagnosisInput<'_>, found: &mut Vec<Finding>) {
    let refused = |reason| count(facts.sessions, "refused", reason);
    let unknown = refused("unknown_key");
    if unknown >= MIN_REFUSALS {
        found.push(finding(
            "key_missing",
            FindingSeverity::Critical,
            ["会话的签名密钥不在 [session] keys 里", "Sessions name a key that is not in [session] keys"],
            Bilingual::new(
                format!("最近一分钟拒绝了 {unknown} 个会话：它们由一把已被移除（或别的副本才有）的密钥签名，访客被迫重新登录。"),
                format!("{unknown} refused in the last minute: they were signed with a key that was taken out, or that only another replica has. Their visitors have to log in again."),
            ),
            [
                "把旧密钥放回 keys 列表（新密钥在前），过了 max 再移除；所有副本用同一份 keys。",
                "Put the old key back into `keys`, behind the new one, until `max` has passed; every replica needs the same keys.",
            ],
        ));
    }
    let skewed = refused("clock_skew") + count(facts.logins, "failed", "clock_skew");
    // One is enough: the signature is good, so that no browser and no robot can bring this about.
    if skewed > 0 {
        found.push(finding(
            "clock_skew",
            FindingSeverity::Critical,
            ["各副本的时钟相差一分钟以上", "The clocks of replicas stand more than a minute apart"],
            Bilingual::new(
                format!("最近一分钟有 {skewed} 个会话或登录因签发时间在本机的未来而被拒绝：本机时钟慢了，或签发它们的副本时钟快了。访客被迫重新登录。审计日志里有相差的秒数。"),
                format!("{skewed} refused in the last minute: they were issued in the future of this replica's clock. Either it is behind, or the clock of the replica that issued them is ahead. Their visitors have to log in again. The audit lines say by how many seconds."),
            ),
            [
                "在每个副本的机器上用 NTP 校时（chronyc tracking、timedatectl）；wxgate check --online 会与别处的时钟比较。",
                "Synchronize the clock of every replica's machine with NTP (`chronyc tracking`, `timedatectl`); `wxgate check --online` compares it with others.",
            ],
        ));
    }
    let forged = refused("forged");
    if forged >= MIN_REFUSALS {
        found.push(finding(
            "key_mismatch",
            FindingSeverity::Warning,
            ["会话的签名对不上", "Sessions carry a signature that does not fit"],
            Bilingual::new(
                format!("最近一分钟拒绝了 {forged} 个会话：密钥 id 相同而内容不同，或有人在伪造。"),
                format!("{forged} refused in the last minute: the key of that id has another secret, or somebody is forging."),
            ),
            [
                "密钥换了内容就要换 id；核对各副本的 keys 是否一致。查看审计日志里的来源地址。",
                "A key with a new secret needs a new id; compare `keys` of all replicas. The audit lines name the clients.",
            ],
        ));
    }
}

pub fn logins_are_lost(facts: &DiagnosisInput<'_>, found: &mut Vec<Finding>) {
    let (started, returned) =
        (count(facts.all_logins, "started", ""), count(facts.all_logins, "returned", ""));
    let recent = count(facts.logins, "started", "");
    let lately = recent >= 2 * MIN_LOGINS && count(facts.logins, "returned", "") == 0;
    if (started >= MIN_LOGINS && returned == 0) || lately {
        let started = if lately { recent } else { started };
        found.push(finding(
            "nobody_returns",
            FindingSeverity::Critical,
            ["访客去了微信，没有人回来", "Visitors leave for WeChat and nobody comes back"],
            Bilingual::new(
                format!("{started} 次登录开始，没有一次回调。"),
                format!("{started} logins began, and not one callback came."),
            ),
            [
                "在公众号后台把回调域名设为“网页授权域名”（微信页面报 10003 就是它），并确认 public_url 是访客真正使用的地址。",
                "Set the callback domain as 网页授权域名 in the console (error 10003 on WeChat's page is just this), and make sure public_url is what visitors use.",
            ],
        ));
    }
    let lost = count(facts.logins, "failed", "cookies_lost");
    if lost >= MIN_REFUSALS {
        found.push(finding(
            "cookies_lost",
            FindingSeverity::Warning,
            ["访客从微信回来时没有带 cookie", "Browsers come back from WeChat without their cookie"],
            Bilingual::new(
                format!("最近一分钟 {lost} 次登录因此失败。"),
                format!("{lost} logins failed of it in the last minute."),
            ),
            [
                "确认 public_url 与访客看到的地址（含 https）一致，且前面的代理没有去掉 Set-Cookie。",
                "Is public_url the address visitors see, https included? Does a proxy in front remove Set-Cookie?",
            ],
        ));
    }
}
