#include "services/mgmt/monitor/history_store.h"

#include <algorithm>
#include <map>

#include "absl/strings/str_cat.h"
#include "services/common/status_macros.h"

namespace tessera::mgmt {
namespace {

// Of the database at a time: other users of it wait that long.
constexpr size_t kRowsAtOnce = 2'000;
constexpr int kVacuumPagesAtOnce = 2'000;
// Series that are forgotten at a time when there are too many.
constexpr size_t kForgottenAtOnce = 1'000;

int64_t Sql(uint64_t value) { return static_cast<int64_t>(value); }

std::string Blob(const SQLite::Column& column) {
  return {static_cast<const char*>(column.getBlob()), static_cast<size_t>(column.getBytes())};
}

// Writes a row; what the database has of it already stays where `points` has none.
class BlockWriter {
 public:
  BlockWriter(SQLite::Database& db, size_t level, uint64_t begin_ms)
      : select_(db,
                "SELECT points FROM history_block WHERE level=? AND begin_ms=? AND series_id=?"),
        insert_(db, "INSERT OR REPLACE INTO history_block VALUES (?, ?, ?, ?)"),
        level_(level),
        begin_ms_(begin_ms) {
    SQLite::Statement any(db, "SELECT 1 FROM history_block WHERE level=? AND begin_ms=? LIMIT 1");
    any.bind(1, static_cast<int>(level));
    any.bind(2, Sql(begin_ms));
    merges_ = any.executeStep();
  }
  [[nodiscard]] absl::Status Write(int64_t series_id, BlockPoints points) {
    if (merges_) {
      select_.reset();
      Bind(&select_, series_id);
      if (select_.executeStep()) {
        TESSERA_ASSIGN_OR_RETURN(const BlockPoints older,
                                 DecodeBlock(Blob(select_.getColumn(0)), kHistory[level_].slots()));
        points = MergeBlocks(points, older);
      }
    }
    const std::string bytes = EncodeBlock(points);
    insert_.reset();
    Bind(&insert_, series_id);
    insert_.bind(4, bytes.data(), static_cast<int>(bytes.size()));
    insert_.exec();
    return absl::OkStatus();
  }

 private:
  void Bind(SQLite::Statement* statement, int64_t series_id) const {
    statement->bind(1, static_cast<int>(level_));
    statement->bind(2, Sql(begin_ms_));
    statement->bind(3, series_id);
  }

  SQLite::Statement select_;
  SQLite::Statement insert_;
  const size_t level_;
  const uint64_t begin_ms_;
  bool merges_ = false;
};

template <typename Accumulators>
BlockPoints PointsOf(const Accumulators& accumulators) {
  BlockPoints points;
  points.reserve(accumulators.size());
  for (const StepAccumulator& step : accumulators) points.push_back(step.point());
  return points;
}

struct Room {
  uint64_t file_bytes = 0;
  uint64_t used_bytes = 0;
};

Room RoomOf(SQLite::Database& db) {
  const auto number = [&](const char* pragma) {
    return static_cast<uint64_t>(db.execAndGet(pragma).getInt64());
  };
  const uint64_t page = number("PRAGMA page_size");
  const uint64_t pages = number("PRAGMA page_count");
  return {pages * page, (pages - number("PRAGMA freelist_count")) * page};
}

}  // namespace

absl::StatusOr<std::unique_ptr<HistoryStore>> HistoryStore::Open(MgmtDb* db, const Clock* clock,
                                                                 const HistoryOptions& options) {
  std::unique_ptr<HistoryStore> store(new HistoryStore(db, clock, options));
  TESSERA_RETURN_IF_ERROR(store->Load());
  return store;
}

absl::Status HistoryStore::Load() {
  uint64_t newest_ms = 0;
  TESSERA_RETURN_IF_ERROR(db_->Read([&](SQLite::Database& db) {
    // Only then does the file shrink. VACUUM gives an existing database the mode.
    if (db.execAndGet("PRAGMA auto_vacuum").getInt() != 2) {
      db.exec("PRAGMA auto_vacuum=2");
      db.exec("VACUUM");
    }
    db.exec("PRAGMA journal_size_limit=16777216");
    absl::MutexLock lock(&mutex_);
    SQLite::Statement rows(db,
                           "SELECT kind, component_id, volume_id, figure, series_id, last_ms, name "
                           "FROM history_series");
    while (rows.executeStep()) {
      SeriesName name;
      name.kind = static_cast<v1::ComponentKind>(rows.getColumn(0).getInt());
      name.component_id = static_cast<uint64_t>(rows.getColumn(1).getInt64());
      name.volume_id = static_cast<uint64_t>(rows.getColumn(2).getInt64());
      name.figure = *figures_.insert(rows.getColumn(3).getString()).first;
      series_[name] = {rows.getColumn(4).getInt64(),
                       static_cast<uint64_t>(rows.getColumn(5).getInt64()),
                       rows.getColumn(6).getString()};
    }
    SQLite::Statement newest(db, "SELECT MAX(begin_ms) FROM history_block WHERE level=0");
    if (newest.executeStep()) newest_ms = static_cast<uint64_t>(newest.getColumn(0).getInt64());
    database_bytes_ = RoomOf(db).file_bytes;
    return absl::OkStatus();
  }));
  guard_ = ClockGuard(newest_ms);
  return absl::OkStatus();
}

absl::Status HistoryStore::Record(const std::vector<SeriesSample>& samples) {
  const uint64_t now_ms = clock_->WallMillis();
  guard_.Observe(now_ms, clock_->BootMillis());
  const uint64_t begin_ms = FloorTo(now_ms, kHistory[0].block_ms);
  absl::Status written;
  bool over = false;
  {
    absl::MutexLock lock(&mutex_);
    over = !open_.points.empty() && open_.begin_ms != begin_ms;
  }
  if (over) {
    written = Flush();
    if (written.ok()) written = Upkeep(now_ms);
  }
  TESSERA_RETURN_IF_ERROR(AddSeries(samples, now_ms));
  absl::MutexLock lock(&mutex_);
  open_.begin_ms = begin_ms;
  const size_t slot = (now_ms - begin_ms) / kHistory[0].step_ms;
  for (const SeriesSample& sample : samples) {
    const auto found = series_.find(sample.series);
    if (found == series_.end()) continue;
    found->second.last_ms = now_ms;
    open_.points[found->second.series_id][slot].Add(sample.value, sample.value, 1);
  }
  return written;
}

absl::Status HistoryStore::AddSeries(const std::vector<SeriesSample>& samples, uint64_t now_ms) {
  std::vector<const SeriesSample*> fresh;
  std::vector<std::pair<int64_t, std::string>> renamed;
  std::vector<int64_t> forgotten;
  {
    absl::MutexLock lock(&mutex_);
    for (const SeriesSample& sample : samples) {
      const auto found = series_.find(sample.series);
      if (found == series_.end()) {
        fresh.push_back(&sample);
      } else if (found->second.name != sample.name) {
        found->second.name = std::string(sample.name);
        renamed.emplace_back(found->second.series_id, found->second.name);
      }
    }
    if (fresh.size() > options_.series_max) fresh.resize(options_.series_max);
    while (!fresh.empty() && series_.size() + fresh.size() > options_.series_max) {
      ForgetSeries(&forgotten);
    }
  }
  if (fresh.empty() && renamed.empty()) return absl::OkStatus();
  std::vector<int64_t> ids;
  TESSERA_RETURN_IF_ERROR(WriteSeries(fresh, renamed, forgotten, now_ms, &ids));
  absl::MutexLock lock(&mutex_);
  for (size_t i = 0; i < fresh.size(); ++i) {
    SeriesName name = fresh[i]->series;
    name.figure = *figures_.emplace(name.figure).first;
    series_[name] = {ids[i], now_ms, std::string(fresh[i]->name)};
  }
  return absl::OkStatus();
}

absl::Status HistoryStore::WriteSeries(const std::vector<const SeriesSample*>& fresh,
                                       const std::vector<std::pair<int64_t, std::string>>& renamed,
                                       const std::vector<int64_t>& forgotten, uint64_t now_ms,
                                       std::vector<int64_t>* ids) {
  return db_->Write([&](SQLite::Database& db) {
    SQLite::Statement forget(db, "DELETE FROM history_series WHERE series_id=?");
    for (const int64_t id : forgotten) {
      forget.reset();
      forget.bind(1, id);
      forget.exec();
    }
    SQLite::Statement rename(db, "UPDATE history_series SET name=? WHERE series_id=?");
    for (const auto& [id, name] : renamed) {
      rename.reset();
      rename.bind(1, name);
      rename.bind(2, id);
      rename.exec();
    }
    // One that is there already: a change of memory alone, because the database failed.
    SQLite::Statement insert(db,
                             "INSERT INTO history_series "
                             "(kind, component_id, volume_id, figure, name, unit, last_ms) "
                             "VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET "
                             "last_ms=excluded.last_ms, name=excluded.name RETURNING series_id");
    for (const SeriesSample* sample : fresh) {
      insert.reset();
      insert.bind(1, static_cast<int>(sample->series.kind));
      insert.bind(2, Sql(sample->series.component_id));
      insert.bind(3, Sql(sample->series.volume_id));
      insert.bind(4, std::string(sample->series.figure));
      insert.bind(5, std::string(sample->name));
      insert.bind(6, std::string(sample->unit));
      insert.bind(7, Sql(now_ms));
      if (!insert.executeStep()) return absl::InternalError("a new series has no id");
      ids->push_back(insert.getColumn(0).getInt64());
    }
    return absl::OkStatus();
  });
}

void HistoryStore::ForgetSeries(std::vector<int64_t>* ids) {
  std::vector<std::pair<uint64_t, SeriesName>> by_age;
  by_age.reserve(series_.size());
  for (const auto& [name, series] : series_) by_age.emplace_back(series.last_ms, name);
  const size_t count = std::min(kForgottenAtOnce, by_age.size());
  const auto older = [](const auto& a, const auto& b) { return a.first < b.first; };
  std::nth_element(by_age.begin(), by_age.begin() + static_cast<ptrdiff_t>(count - 1), by_age.end(),
                   older);
  for (size_t i = 0; i < count; ++i) {
    const auto found = series_.find(by_age[i].second);
    ids->push_back(found->second.series_id);
    open_.points.erase(found->second.series_id);
    series_.erase(found);
  }
}

absl::Status HistoryStore::Flush() {
  std::shared_ptr<const OpenBlock> block;
  {
    absl::MutexLock lock(&mutex_);
    if (open_.points.empty()) return absl::OkStatus();
    block = writing_ = std::make_shared<const OpenBlock>(std::move(open_));
    open_ = OpenBlock();
  }
  const absl::Status status = WriteBlock(*block);
  absl::MutexLock lock(&mutex_);
  writing_.reset();
  return status;
}

absl::Status HistoryStore::WriteBlock(const OpenBlock& block) {
  std::vector<int64_t> ids;
  ids.reserve(block.points.size());
  for (const auto& [id, points] : block.points) ids.push_back(id);
  std::sort(ids.begin(), ids.end());  // in the table's order: appended, page by page
  for (size_t next = 0; next < ids.size();) {
    const size_t end = std::min(ids.size(), next + kRowsAtOnce);
    TESSERA_RETURN_IF_ERROR(db_->Write([&](SQLite::Database& db) -> absl::Status {
      BlockWriter writer(db, 0, block.begin_ms);
      for (size_t i = next; i < end; ++i) {
        TESSERA_RETURN_IF_ERROR(writer.Write(ids[i], PointsOf(block.points.at(ids[i]))));
      }
      return absl::OkStatus();
    }));
    next = end;
  }
  return absl::OkStatus();
}

absl::Status HistoryStore::Upkeep(uint64_t now_ms) {
  uint64_t finished_ms = FloorTo(now_ms, kHistory[0].block_ms);
  for (size_t level = 1; level < kHistoryLevels; ++level) {
    TESSERA_RETURN_IF_ERROR(Compact(level, finished_ms));
    finished_ms = FloorTo(finished_ms, kHistory[level].block_ms);
  }
  if (guard_.settled()) TESSERA_RETURN_IF_ERROR(DropOld(now_ms));
  return MakeRoom();
}

absl::StatusOr<LevelExtents> HistoryStore::Extents() {
  LevelExtents extents;
  TESSERA_RETURN_IF_ERROR(db_->Read([&](SQLite::Database& db) {
    // Two look-ups: SQLite finds a minimum and a maximum by the index only when asked for one.
    SQLite::Statement oldest(db, "SELECT MIN(begin_ms) FROM history_block WHERE level=?");
    SQLite::Statement newest(db, "SELECT MAX(begin_ms) FROM history_block WHERE level=?");
    for (size_t level = 0; level < kHistoryLevels; ++level) {
      oldest.reset();
      newest.reset();
      oldest.bind(1, static_cast<int>(level));
      newest.bind(1, static_cast<int>(level));
      if (!oldest.executeStep() || !newest.executeStep() || oldest.getColumn(0).isNull()) continue;
      extents[level] = {static_cast<uint64_t>(oldest.getColumn(0).getInt64()),
                        static_cast<uint64_t>(newest.getColumn(0).getInt64()), false};
    }
    return absl::OkStatus();
  }));
  return extents;
}

absl::StatusOr<uint64_t> HistoryStore::Progress(size_t level) {
  uint64_t until_ms = 0;
  TESSERA_RETURN_IF_ERROR(db_->Read([&](SQLite::Database& db) {
    SQLite::Statement row(db, "SELECT until_ms FROM history_progress WHERE level=?");
    row.bind(1, static_cast<int>(level));
    if (row.executeStep()) until_ms = static_cast<uint64_t>(row.getColumn(0).getInt64());
    return absl::OkStatus();
  }));
  return until_ms;
}

absl::Status HistoryStore::Compact(size_t level, uint64_t finished_ms) {
  const uint64_t block_ms = kHistory[level].block_ms;
  const uint64_t end_ms = FloorTo(finished_ms, block_ms);
  TESSERA_ASSIGN_OR_RETURN(const uint64_t progress_ms, Progress(level));
  uint64_t begin_ms = std::min(progress_ms, end_ms);  // later only after the clock went back
  while (begin_ms < end_ms) {
    // Where there is nothing, after a time away or a jump of the clock, there is nothing to do.
    uint64_t next_ms = end_ms;
    TESSERA_RETURN_IF_ERROR(db_->Read([&](SQLite::Database& db) {
      SQLite::Statement first(
          db, "SELECT MIN(begin_ms) FROM history_block WHERE level=? AND begin_ms>=?");
      first.bind(1, static_cast<int>(level - 1));
      first.bind(2, Sql(begin_ms));
      if (first.executeStep() && !first.getColumn(0).isNull()) {
        next_ms = static_cast<uint64_t>(first.getColumn(0).getInt64());
      }
      return absl::OkStatus();
    }));
    begin_ms = FloorTo(next_ms, block_ms);
    if (begin_ms >= end_ms) break;
    TESSERA_RETURN_IF_ERROR(CompactWindow(level, begin_ms));
    begin_ms += block_ms;
  }
  if (progress_ms == end_ms) return absl::OkStatus();
  return db_->Write([&](SQLite::Database& db) {
    SQLite::Statement row(db, "INSERT OR REPLACE INTO history_progress VALUES (?, ?)");
    row.bind(1, static_cast<int>(level));
    row.bind(2, Sql(end_ms));
    row.exec();
    return absl::OkStatus();
  });
}

absl::Status HistoryStore::CompactWindow(size_t level, uint64_t begin_ms) {
  const HistoryLevel& finer = kHistory[level - 1];
  const HistoryLevel& coarser = kHistory[level];
  std::map<int64_t, std::vector<StepAccumulator>> steps;
  for (uint64_t at = begin_ms; at < begin_ms + coarser.block_ms; at += finer.block_ms) {
    TESSERA_RETURN_IF_ERROR(db_->Read([&](SQLite::Database& db) -> absl::Status {
      SQLite::Statement rows(
          db, "SELECT series_id, points FROM history_block WHERE level=? AND begin_ms=?");
      rows.bind(1, static_cast<int>(level - 1));
      rows.bind(2, Sql(at));
      while (rows.executeStep()) {
        TESSERA_ASSIGN_OR_RETURN(const BlockPoints points,
                                 DecodeBlock(Blob(rows.getColumn(1)), finer.slots()));
        std::vector<StepAccumulator>& to = steps[rows.getColumn(0).getInt64()];
        to.resize(coarser.slots());
        for (size_t i = 0; i < points.size(); ++i) {
          if (!points[i]) continue;
          const uint64_t time_ms = at + i * finer.step_ms;
          to[(time_ms - begin_ms) / coarser.step_ms].Add(points[i]->mean, points[i]->maximum, 1);
        }
      }
      return absl::OkStatus();
    }));
  }
  for (auto next = steps.begin(); next != steps.end();) {
    TESSERA_RETURN_IF_ERROR(db_->Write([&](SQLite::Database& db) -> absl::Status {
      BlockWriter writer(db, level, begin_ms);
      for (size_t rows = 0; rows < kRowsAtOnce && next != steps.end(); ++rows, ++next) {
        TESSERA_RETURN_IF_ERROR(writer.Write(next->first, PointsOf(next->second)));
      }
      return absl::OkStatus();
    }));
  }
  return level == 1 ? TouchSeries() : absl::OkStatus();
}

absl::Status HistoryStore::TouchSeries() {
  std::vector<std::pair<int64_t, uint64_t>> seen;
  {
    absl::MutexLock lock(&mutex_);
    for (const auto& [name, series] : series_) seen.emplace_back(series.series_id, series.last_ms);
  }
  return db_->Write([&](SQLite::Database& db) {
    SQLite::Statement touch(
        db, "UPDATE history_series SET last_ms=?1 WHERE series_id=?2 AND last_ms<?1");
    for (const auto& [series_id, last_ms] : seen) {
      touch.reset();
      touch.bind(1, Sql(last_ms));
      touch.bind(2, series_id);
      touch.exec();
    }
    return absl::OkStatus();
  });
}

absl::Status HistoryStore::DropOld(uint64_t now_ms) {
  TESSERA_RETURN_IF_ERROR(db_->Write([&](SQLite::Database& db) {
    SQLite::Statement drop(
        db, "DELETE FROM history_block WHERE level=? AND (begin_ms<? OR begin_ms>?)");
    for (size_t level = 0; level < kHistoryLevels; ++level) {
      const HistoryLevel& rule = kHistory[level];
      const uint64_t oldest_ms =
          now_ms > rule.keep_ms + rule.block_ms ? FloorTo(now_ms - rule.keep_ms, rule.block_ms) : 0;
      drop.reset();
      drop.bind(1, static_cast<int>(level));
      drop.bind(2, Sql(oldest_ms));
      drop.bind(3, Sql(now_ms));  // of a time when the clock was ahead
      drop.exec();
    }
    return absl::OkStatus();
  }));
  const uint64_t keep_ms = kHistory[kHistoryLevels - 1].keep_ms;
  if (now_ms < keep_ms) return absl::OkStatus();
  std::vector<int64_t> ended;
  {
    absl::MutexLock lock(&mutex_);
    for (auto series = series_.begin(); series != series_.end();) {
      if (series->second.last_ms < now_ms - keep_ms) {
        ended.push_back(series->second.series_id);
        series_.erase(series++);
      } else {
        ++series;
      }
    }
  }
  if (ended.empty()) return absl::OkStatus();
  return db_->Write([&](SQLite::Database& db) {
    SQLite::Statement forget(db, "DELETE FROM history_series WHERE series_id=?");
    for (const int64_t id : ended) {
      forget.reset();
      forget.bind(1, id);
      forget.exec();
    }
    return absl::OkStatus();
  });
}

absl::Status HistoryStore::MakeRoom() {
  const auto limit = static_cast<double>(options_.limit_bytes);
  Room room;
  const auto measure = [&] {
    return db_->Read([&](SQLite::Database& db) {
      room = RoomOf(db);
      return absl::OkStatus();
    });
  };
  TESSERA_RETURN_IF_ERROR(measure());
  if (static_cast<double>(room.used_bytes) > limit * kTrimAbove) {
    while (static_cast<double>(room.used_bytes) > limit * kTrimBelow) {
      TESSERA_ASSIGN_OR_RETURN(const LevelExtents extents, Extents());
      const std::optional<size_t> level = LevelToTrim(extents);
      if (!level) break;
      TESSERA_RETURN_IF_ERROR(db_->Write([&](SQLite::Database& db) {
        SQLite::Statement drop(db, "DELETE FROM history_block WHERE level=? AND begin_ms=?");
        drop.bind(1, static_cast<int>(*level));
        drop.bind(2, Sql(extents[*level].oldest_ms));
        drop.exec();
        return absl::OkStatus();
      }));
      TESSERA_RETURN_IF_ERROR(measure());
    }
  }
  // A little free space is used again soon; more goes back to the file system.
  while (static_cast<double>(room.file_bytes - room.used_bytes) > limit / 20) {
    const uint64_t before = room.file_bytes;
    TESSERA_RETURN_IF_ERROR(db_->Read([&](SQLite::Database& db) {
      db.exec(absl::StrCat("PRAGMA incremental_vacuum(", kVacuumPagesAtOnce, ")"));
      return absl::OkStatus();
    }));
    TESSERA_RETURN_IF_ERROR(measure());
    if (room.file_bytes >= before) break;
  }
  absl::MutexLock lock(&mutex_);
  database_bytes_ = room.file_bytes;
  return absl::OkStatus();
}

uint64_t HistoryStore::database_bytes() const {
  absl::MutexLock lock(&mutex_);
  return database_bytes_;
}

size_t HistoryStore::series() const {
  absl::MutexLock lock(&mutex_);
  return series_.size();
}

}  // namespace tessera::mgmt
