//! Sites and the store as they fail. Pure.

use super::{Bilingual, DiagnosisInput, Finding, FindingSeverity, SiteInput, finding, list};
use crate::store::UnavailableCause;

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
    let cause = facts.store_cause.unwrap_or(UnavailableCause::Unreachable);
    let (why, (zh_why, zh_remedy)) = (&vital.why, in_chinese(cause));
    let (waiting, remedy) = (facts.waiting, Bilingual::new(zh_remedy, cause.remedy()));
    let title = ["存储不可用", "The store is unavailable"];
    if is_of_a_file(cause) {
        let detail = Bilingual::new(
            format!(
                "{zh_why}（{why}）。会话在本进程内照常结束；有 {waiting} 条注销尚未写入文件，此时重启就会丢失。"
            ),
            format!(
                "{why}. Sessions end in this process all the same; a restart would lose those that wait to be written: {waiting}."
            ),
        );
        let (cause, title) = ("store_away", Bilingual::of(title));
        return Some(Finding { cause, severity: FindingSeverity::Critical, title, detail, remedy });
    }
    let news = facts.news;
    let refusing = |site: &&SiteInput| {
        site.staleness.allowed().is_some_and(|allowed| news.is_none_or(|age| age > allowed))
    };
    let sites: Vec<&str> =
        facts.sites.iter().filter(refusing).map(|site| site.name.as_str()).collect();
    let age = news.map_or(0, |age| age.as_secs());
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
    let detail = Bilingual::new(
        format!(
            "{zh_why}（{why}）。{waiting} 条注销等待写入；上次得知注销消息是 {age} 秒前。{zh}恢复后网关自动补齐。"
        ),
        format!(
            "{why}. Revocations that wait to be stored: {waiting}. The last news of ended sessions is {age} s old. {en} The gateway catches up by itself."
        ),
    );
    Some(Finding { cause: "store_away", severity, title: Bilingual::of(title), detail, remedy })
}

fn is_of_a_file(cause: UnavailableCause) -> bool {
    matches!(
        cause,
        UnavailableCause::FileDiskFull
            | UnavailableCause::FileUnusable
            | UnavailableCause::FileOverloaded
    )
}

/// The cause and its remedy. [`UnavailableCause`] has them in English.
fn in_chinese(cause: UnavailableCause) -> (String, String) {
    use UnavailableCause as Cause;
    let (summary, remedy) = match cause {
        Cause::Unreachable => {
            ("Redis 没有应答", "确认 Redis 在运行，[store] 的地址、端口与 TLS 正确，网络可达。")
        }
        Cause::SlowWrites => (
            "Redis 能读，但写入太慢",
            "查是什么拖住了写入：appendfsync always 加慢盘、CLIENT PAUSE、正在主从切换。",
        ),
        Cause::Full => (
            "Redis 已满（达到 maxmemory）",
            "调大 maxmemory，或清理其他程序放在里面的数据；noeviction 不要改。",
        ),
        Cause::ReadOnly => ("这台 Redis 是只读副本", "在 [store] 里写主节点，或改用 sentinels。"),
        Cause::DiskError => (
            "Redis 写不了磁盘（MISCONF）",
            "腾出磁盘空间，或让它能写自己的目录：redis-cli INFO persistence。",
        ),
        Cause::ForbiddenCommand(command) => {
            let right = command.to_lowercase();
            return (
                format!("[store] 的 ACL 用户缺少命令 {command}"),
                format!("ACL SETUSER 加上 +{right}；所需的全部命令见 config.toml 的 username。"),
            );
        }
        Cause::ForbiddenKeys => (
            "[store] 的 ACL 用户不能使用 wxgate:* 的键",
            "ACL SETUSER 加上 ~wxgate:*；所需权限见 config.toml 的 username。",
        ),
        Cause::Credentials => {
            ("Redis 不接受 username 与 password", "改正 [store] 的 username 与 password。")
        }
        Cause::Loading => ("Redis 还在加载数据", "等待即可：加载完就会应答。"),
        Cause::Busy => ("Redis 正忙于一个脚本", "SCRIPT KILL 可以结束它；找出是哪个程序发的。"),
        Cause::TooFewReplicas => {
            ("Redis 的从节点不足（min-replicas-to-write）", "启动它的从节点，或查它们为什么落后。")
        }
        Cause::MasterDown => {
            ("这台 Redis 是失去主节点的副本", "在 [store] 里写主节点，或改用 sentinels。")
        }
        Cause::ClusterDown => {
            ("Redis 集群不可用", "看 redis-cli CLUSTER INFO：每个槽都要有主节点。")
        }
        Cause::TooManyClients => {
            ("Redis 不再接受连接（达到 maxclients）", "调大 maxclients，或找出占用大量连接的程序。")
        }
        Cause::UnknownCommand(command) => {
            return (
                format!("这台 Redis 不认识命令 {command}"),
                "使用 Redis 6.2 或更新版本，且不要改名 config.toml 里列出的命令。".to_owned(),
            );
        }
        Cause::Refused => ("Redis 拒绝了一条命令", "原因见它返回的文字。"),
        Cause::FileDiskFull => {
            ("存储文件所在的磁盘已满", "腾出空间；网关会自己重新打开文件，其间的注销不会丢。")
        }
        Cause::FileUnusable => {
            ("存储文件不能用", "修好磁盘，或 [store] path 的权限；网关会自己重新打开文件。")
        }
        Cause::FileOverloaded => ("存储文件所在的磁盘太慢", "看还有什么在用这块磁盘。"),
        Cause::Internal => ("内部错误", "看日志。"),
    };
    (summary.to_owned(), remedy.to_owned())
}
