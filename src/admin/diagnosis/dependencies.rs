//! Sites and the store as they fail. Pure.

use super::{Bilingual, DiagnosisInput, Finding, FindingSeverity, SiteInput, finding, list};

pub fn upstreams_are_down(facts: &DiagnosisInput<'_>, found: &mut Vec<Finding>) {
    for site in facts.sites {
        let vitals = || site.servers.iter().filter_map(|it| site.vitals.get_key_value(it));
        let ill = vitals().filter(|(_, vital)| !vital.healthy).count();
        if ill == 0 {
            continue;
        }
        let (name, why) = (&site.name, list(vitals()));
        let all = ill == site.servers.len();
        let remedy = [
            "在该服务器上确认服务在运行、监听的地址与端口与 upstream 一致，且防火墙放行；若配置了健康检查，直接请求该页面看它怎么答。",
            "On that machine: is the service running, on the address and port of `upstream`, and does the firewall let us in? Where it has a health check, ask for that page yourself.",
        ];
        found.push(if all {
            finding(
                "upstream_down",
                FindingSeverity::Critical,
                ["站点没有一台服务器正常", "No server of a site is well"],
                Bilingual::new(
                    format!("{name}：{why}。请求仍会发给它们；都不答时，访客看到 502 页面。"),
                    format!(
                        "{name}: {why}. All are asked all the same; where none answers, visitors get a 502 page."
                    ),
                ),
                remedy,
            )
        } else {
            finding(
                "upstream_degraded",
                FindingSeverity::Warning,
                ["站点有服务器不正常", "A server of a site is not well"],
                Bilingual::new(
                    format!("{name}：{why}。其余服务器接手。"),
                    format!("{name}: {why}. The others take its requests."),
                ),
                remedy,
            )
        });
    }
}

pub fn upstreams_fail(facts: &DiagnosisInput<'_>, found: &mut Vec<Finding>) {
    for ([site, reason], times) in facts.upstream_errors {
        let (title, remedy) = match &**reason {
            "full" => (
                ["站点忙不过来，访客被拒", "A site has no room, and visitors are turned away"],
                [
                    "各服务器的在途请求都达到了 upstream_connections，排队的也等不到：看站点为什么慢；它受得住再调大该值，否则加服务器。",
                    "Each of its servers has upstream_connections requests under way, and who waits does so in vain: see why it is slow; raise the value if it can take more, or add a server.",
                ],
            ),
            "slow" => (
                ["站点答得太慢", "A site takes too long to answer"],
                [
                    "站点超过 response_timeout 才开始应答：查看站点的慢请求；确有需要再调大该值。",
                    "It takes longer than response_timeout to begin: look at its slow requests, and raise the value only if they are meant to be slow.",
                ],
            ),
            "broken" => (
                ["站点中途断开连接", "A site breaks off"],
                [
                    "站点断开了连接或答的不是 HTTP：查看站点的错误日志与崩溃。",
                    "It hung up, or what it says is not HTTP: look at its error log.",
                ],
            ),
            _ => continue,
        };
        found.push(finding(
            match &**reason {
                "full" => "upstream_full",
                "slow" => "upstream_slow",
                _ => "upstream_broken",
            },
            FindingSeverity::Warning,
            title,
            Bilingual::new(
                format!("{site}：最近一分钟 {times} 个请求。"),
                format!("{site}: {times} in the last minute."),
            ),
            remedy,
        ));
    }
}

pub fn store_is_away(facts: &DiagnosisInput<'_>) -> Option<Finding> {
    let vital = facts.store.filter(|vital| !vital.healthy)?;
    let news = facts.news;
    let refusing = |site: &&SiteInput| {
        site.staleness.allowed().is_some_and(|allowed| news.is_none_or(|age| age > allowed))
    };
    let sites: Vec<&str> =
        facts.sites.iter().filter(refusing).map(|site| site.name.as_str()).collect();
    let age = news.map_or(0, |age| age.as_secs());
    let why = &vital.why;
    let (severity, zh, en) = if sites.is_empty() {
        let zh = "站点照常服务；在别的副本注销的会话暂时仍然有效。".to_owned();
        let en = "Sites go on; a session that was ended on another replica is still good here.";
        (FindingSeverity::Warning, zh, en.to_owned())
    } else {
        let names = sites.join(", ");
        let zh = format!("{names} 已停止接受会话（revocation），访客看到 503。");
        (
            FindingSeverity::Critical,
            zh,
            format!("{names} takes no sessions any more (`revocation`): visitors get a 503."),
        )
    };
    Some(finding(
        "store_away",
        severity,
        ["存储（Redis）连不上", "The store cannot be reached"],
        Bilingual::new(
            format!("{why}。上次得知注销消息是 {age} 秒前。{zh}"),
            format!("{why}. The last news of ended sessions is {age} s old. {en}"),
        ),
        [
            "确认 Redis 在运行、[store] 的地址与密码正确、网络可达；恢复后网关自动补齐。",
            "Is Redis running, and are address and password under [store] right? The gateway catches up by itself.",
        ],
    ))
}
