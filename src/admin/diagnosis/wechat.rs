//! WeChat as it fails. Pure.

use super::{Bilingual, DiagnosisInput, Finding, FindingSeverity, count, finding, list};
use crate::wechat::protocol::errcodes;

pub fn is_away(facts: &DiagnosisInput<'_>) -> Option<Finding> {
    let ill = facts.wechat.values().filter(|vital| !vital.healthy).count();
    if ill == 0 {
        return None;
    }
    let why = list(facts.wechat.iter());
    if ill < facts.wechat.len() {
        return Some(finding(
            "wechat_host_down",
            FindingSeverity::Warning,
            ["微信的一个接口域名连不上", "One API host of WeChat's cannot be reached"],
            Bilingual::new(
                format!("{why}。登录改走另一个域名。"),
                format!("{why}. Logins go over the other one."),
            ),
            ["检查到该域名的网络与 DNS。", "Check network and DNS towards that host."],
        ));
    }
    Some(finding(
        "wechat_unreachable",
        FindingSeverity::Critical,
        ["微信接口不可用，没有人能登录", "WeChat's API cannot be reached: nobody can log in"],
        Bilingual::new(
            format!("{why}。要登录的访客看到 503 页面和重试按钮。"),
            format!("{why}. Whoever has to log in gets a 503 page with a button."),
        ),
        errcodes::of("unreachable").map_or(["", ""], |words| words.remedy),
    ))
}

pub fn accounts_are_refused(facts: &DiagnosisInput<'_>) -> Vec<Finding> {
    let ill = facts.accounts.iter().filter(|(_, vital)| !vital.healthy);
    ill.map(|(name, vital)| {
        let label =
            vital.why.strip_prefix("WeChat answered ").and_then(|why| why.split(':').next());
        let known = label.and_then(errcodes::of);
        let meaning = known.map_or(["", ""], |words| words.meaning);
        let remedy = known
            .map_or(["查看日志中的原文。", "See WeChat's words in the log."], |it| {
                it.remedy
            });
        let [zh, en] = meaning;
        finding(
            "account_refused",
            FindingSeverity::Critical,
            [
                "微信拒绝了公众号的凭据，没有人能登录",
                "WeChat refuses the account: nobody can log in",
            ],
            Bilingual::new(
                format!("帐号 {name}：{zh}（{}）", vital.why),
                format!("Account {name}: {en} ({})", vital.why),
            ),
            remedy,
        )
    })
    .collect()
}

pub fn is_busy(facts: &DiagnosisInput<'_>) -> Option<Finding> {
    let label =
        ["45009", "45011", "garbled"].into_iter().find(|it| count(facts.calls, "", it) > 0)?;
    let words = errcodes::of(label)?;
    let times = count(facts.calls, "", label);
    let [zh, en] = words.meaning;
    Some(finding(
        if label == "garbled" { "wechat_garbled" } else { "wechat_quota" },
        FindingSeverity::Warning,
        ["微信的应答使登录失败", "WeChat's answers make logins fail"],
        Bilingual::new(
            format!("最近一分钟 {times} 次 {label}：{zh}"),
            format!("{label}, {times} in the last minute: {en}"),
        ),
        words.remedy,
    ))
}
